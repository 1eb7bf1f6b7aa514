"""Kept for queued helper jobs: now ``python -m l3hpc.schedulers.slurm.scheduler JOB CHANGE…``."""

import sys

from l3hpc.schedulers.slurm.scheduler import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
