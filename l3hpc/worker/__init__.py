"""What runs inside a job: one task of a step, and the decision whether it is requeued.

The script of a job starts ``job_entry``; ``execute`` runs a task of a step from its frozen config;
``requeue`` decides what happens after a failure or a restart.
"""
