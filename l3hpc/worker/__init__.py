"""What runs inside a job: one task of one step, from a frozen config to a finished folder."""
