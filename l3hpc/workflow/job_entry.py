"""Kept for scripts of earlier versions: now ``python -m l3hpc.worker.job_entry LOGS``."""

import sys

from l3hpc.worker.job_entry import main

if __name__ == "__main__":
    sys.exit(main())
