"""Names that scripts and pickles of earlier versions hold, so that queued jobs still start.

Everything here moved: ``worker`` has what runs inside a job, ``schedulers`` what is sent to Slurm.
Nothing in this version's own code imports from here.
"""
