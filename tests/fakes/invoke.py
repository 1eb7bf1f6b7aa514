"""A command through the whole command line, and its result object. click keeps, for the rest of the
process, the help option that a command had when it was first called: called alone it has no -h."""

from click.testing import CliRunner

from l3hpc.cli import cli


def runner():
    try:
        return CliRunner(mix_stderr=False)  # click 8.1
    except TypeError:
        return CliRunner()


def invoke(*words):
    """``return_value``, ``stdout`` and ``stderr`` of ``l3hpc WORDS``; exceptions pass through."""
    result = runner().invoke(cli, [str(word) for word in words], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result
