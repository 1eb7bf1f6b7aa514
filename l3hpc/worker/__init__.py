"""What runs inside a job: one task of a step, and the decision whether it is requeued."""
