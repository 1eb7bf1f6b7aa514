"""Kept for queued helper jobs: now ``python -m l3hpc.schedulers.slurm.requeue JOB CHANGE…``."""

import sys

from l3hpc.schedulers.slurm.requeue import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
