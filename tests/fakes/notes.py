"""Progress that keeps its notes, to see what a job would print."""

from l3hpc.console.progress import Progress


class Notes(Progress):
    def __init__(self):
        super().__init__()
        self.notes = []

    def note(self, text):
        self.notes.append(text)
