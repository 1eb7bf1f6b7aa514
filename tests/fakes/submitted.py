"""A submitted chain on a Slurm that says what the test wants."""

import os
import signal
import time

from notes import Notes

from l3hpc.io.files import write_json
from l3hpc.runs import status, submit


class Case:
    """name: of the run. plan: what ``chains.plan`` takes."""

    def __init__(self, chains, slurm, workspace, name="demo", profile=None, **plan):
        self.slurm, self.workspace, self.name = slurm, workspace, name
        self.profile = profile or chains.profile(name="greene", executor="slurm", slots={})
        self.made = chains.plan(workspace, name, on=self.profile, **plan)
        submit.submit(self.made)

    def queue(self, *lines):
        self.slurm.says("squeue", "cat <<'E'\n" + "\n".join(lines) + "\nE")

    def sacct(self, *lines):
        self.slurm.says("sacct", "cat <<'E'\n" + "\n".join(lines) + "\nE")

    def fail_both(self):
        for name in ("squeue", "sacct"):
            self.slurm.says(name, f"echo '{name}: error: no controller' >&2; exit 1")

    def mark(self, step, name, value):
        write_json(self.made.step_folder(step).markers / name, value)

    def finish(self, step, index=0, **result):
        planned = next(each for each in self.made.steps if each.name == step)
        write_json(planned.artifact / f"{index:04d}" / "result.json",
                   {"index": index, "started": 100.0, "finished": 161.0, "summary": {}, **result})

    def look(self):
        [found] = status.collect(self.workspace, [self.name])
        self.run = found
        return {step.name: (step.state, step.detail) for step in found.steps}

    def step(self, name):
        self.look()
        return next(step for step in self.run.steps if step.name == name)


def until_said(words, output):
    """Shell text: wait until ``submit_in_a_child`` has printed these words. Two signals that come
    one after the other before a process looks are one; and false if they never come."""
    return (f"i=0; until grep -q '{words}' {output} || [ $i -ge 4800 ]; do "
            "sleep 0.05; i=$((i + 1)); done 2> /dev/null; [ $i -lt 4800 ]")


def submit_in_a_child(made, output):
    """Submit in a process that Ctrl-C reaches; its exit code, and what it printed."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        notes = Notes()
        notes.note = lambda text: output.open("a").write(f"{time.monotonic()} {text}\n")
        try:
            submit.submit(made, progress=notes)
        except BaseException as error:
            with output.open("a") as stream:
                stream.write(f"{time.monotonic()} {error!r} {getattr(error, 'allowed', '')}; "
                             f"{getattr(error, 'hint', '')}\n")
            os._exit(getattr(error, "exit_code", 9))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, output.read_text()
