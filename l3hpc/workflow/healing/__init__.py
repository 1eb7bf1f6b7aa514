"""Limits that heal themselves: a job that was too small goes back to the queue under its own id.

``policy`` decides (pure): how much more, how often, up to which cap. ``job`` runs inside the job's
script when its command failed, when the time limit comes near, and when the job was started again.
``slurm`` holds the calls to Slurm: requeue and hold, ask for more, release. What was done stands
in the task's ``requeues.json``, where ``status`` and ``resume`` read it.
"""
