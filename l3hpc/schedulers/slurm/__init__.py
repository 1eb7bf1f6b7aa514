"""Jobs of a Slurm cluster: sbatch, squeue and sacct, whose jobs they are, what partitions allow."""
