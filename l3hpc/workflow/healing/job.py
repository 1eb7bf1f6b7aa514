"""Kept for scripts of earlier versions: now ``python -m l3hpc.worker.requeue FOLDER TASK …``."""

import sys

from l3hpc.worker.requeue import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
