"""What lies on disk: the records of runs, artifacts, markers of tasks, the jobs of this machine.

Everything that happened can be read from here without a scheduler, and everything that is written
appears whole or not at all.
"""
