"""``l3hpc init``: looks at the site and writes a commented cluster.yaml for it.

``survey`` asks Slurm and this machine, ``choices`` makes a profile of the answers,
``cluster_file`` writes it.
"""
