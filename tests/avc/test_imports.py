"""What makes pairs and describes networks runs without TensorFlow."""

import subprocess
import sys

LIGHT = ("avc.audioset", "avc.videos", "avc.scenes", "avc.pairs", "avc.batches", "avc.vision",
         "compression.fidelity", "compression.correspondence")


def test_pairs_and_specs_need_no_tensorflow():
    code = "import sys\n" + "".join(f"import l3hpc.{name}\n" for name in LIGHT) + (
        "print([name for name in ('tensorflow', 'keras') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
