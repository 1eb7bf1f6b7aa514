"""From jobs/*.yaml and options to a plan: every step with its inputs, fingerprint and cost.

``definition`` (the file) → ``options`` and ``resolve`` (parameters) → ``external_inputs`` (what
earlier runs have made: ``run_outputs``) → ``plan`` or ``sweep`` (``planned``: the result as data) →
``preview``. ``from_options`` is the way from the command line or a notebook. Nothing here submits
or writes.
"""
