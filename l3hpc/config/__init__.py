"""cluster.yaml and what its values mean: profiles, units, where a value came from in which file.

``settings`` is the whole file, ``profile`` one cluster, ``sources`` where the files are.
"""
