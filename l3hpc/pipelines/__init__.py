"""From jobs/*.yaml and typed options to a plan: every step with its inputs, fingerprint and cost.

``definition`` (the file) → ``parameters`` and ``options`` → ``external_inputs`` → ``plan`` or
``sweep``. Nothing here submits or writes.
"""
