"""``python -m l3hpc`` is the ``l3hpc`` command."""

from l3hpc.cli import main

if __name__ == "__main__":
    main()
