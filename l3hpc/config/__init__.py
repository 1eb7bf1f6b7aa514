"""cluster.yaml and what its values mean: profiles, units, where a value came from in which file."""
