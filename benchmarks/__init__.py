"""Side-by-side measurements; each module prints its table (and JSON with ``--json``)."""
