"""What a workspace holds on disk: records of runs, artifacts, markers of tasks, local jobs.

Everything that happened can be read from here without a scheduler. Files appear whole or not at
all.

``layout`` has every path, ``states`` every state.
"""
