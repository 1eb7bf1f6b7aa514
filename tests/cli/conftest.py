import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "fakes"))

@pytest.fixture
def say(capsys):
    """Run the command line: exit code, standard output, standard error."""
    from l3hpc.cli import main

    def run(*words):
        with pytest.raises(SystemExit) as end:
            main(list(words))
        found = capsys.readouterr()
        return end.value.code, found.out, found.err
    return run
