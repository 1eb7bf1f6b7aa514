"""Where jobs run: ``slurm`` (a cluster) or ``local`` (this machine), from the same script."""
