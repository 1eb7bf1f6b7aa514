"""Runs in a Python that has tflite_micro, and imports nothing of l3hpc: see
``interpreter.run_micro``.

    python micro_child.py MODEL INPUTS.npy OUTPUTS.npy ARENA_BYTES

Runs the model on every row of INPUTS, writes its outputs, and prints the recorded allocations on
standard error.
"""

import sys

import numpy as np


def main(model: str, inputs: str, outputs: str, arena_bytes: str) -> None:
    """Run the model and print the allocations.

    Parameters
    ----------
    model
        The flatbuffer's file.
    inputs
        NumPy file of inputs (n, …).
    outputs
        NumPy file that takes the outputs (n, dim).
    arena_bytes
        Bytes of arena to offer.
    """
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(model, arena_size=int(arena_bytes))
    results = []
    for example in np.load(inputs, allow_pickle=False):
        interpreter.set_input(example, 0)
        interpreter.invoke()
        results.append(interpreter.get_output(0)[0])
    np.save(outputs, np.array(results), allow_pickle=False)
    interpreter.print_allocations()


if __name__ == "__main__":
    main(*sys.argv[1:])
