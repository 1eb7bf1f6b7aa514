"""Plans, scripts, jobs and records: everything between a typed command and a finished artifact.

``config`` (cluster.yaml) and ``pipelines`` (jobs/*.yaml) → ``plan`` → ``render`` → ``submission``
through an executor; ``worker`` runs a step inside a job; ``status`` reads back what happened.
"""
