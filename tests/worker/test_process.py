"""What a task says that it used."""

import subprocess
import sys


def test_a_small_command_does_not_double_the_memory_of_a_task():
    """Linux counts for it what its parent had when it was started."""
    code = ("import subprocess\n"
            "from l3hpc.worker.process import peak_memory_mb\n"
            "held = b'1' * (300 << 20)\n"
            "subprocess.run(['true'], check=True)\n"
            "print(peak_memory_mb())")
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                          check=True)
    assert 300 <= int(done.stdout) < 450
