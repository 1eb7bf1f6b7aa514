"""Real bash over rendered scripts: values that mean something to a shell, a template or Slurm."""

import string

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scripted import marker

from l3hpc.errors import InputError

pytestmark = pytest.mark.slow

HOSTILE = ["$(touch pwned)", "`touch pwned`", "; touch pwned", "a'b", 'a"b', "a b", "-rf",
           "--help", "a\\b", "*", "~", "!x", "#x", "${HOME}", "&", "|cat", ">pwned",
           "é ü 漢字 🎵", "x" * 4000, "a\\", "=",
           "'$(touch pwned)'", "\"; touch pwned; \"", "%j", "{{ 7 * 7 }}", "{% raw %}"]
ANY = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=60),
                st.text(alphabet=string.punctuation + " \n\t", max_size=30))
RELAXED = settings(max_examples=40, deadline=None,
                   suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_arrive_unharmed(machine, value):
    check_arrives(machine, value)


@RELAXED
@given(ANY)
@example("a\nb")
@example("\x00")
def test_any_value_arrives_unharmed_or_is_refused(machine, value):
    check_arrives(machine, value)


def check_arrives(machine, value):
    """As an environment variable, a word of the launcher, and a part of the workspace's path."""
    for name in ("arguments", "environment"):
        (machine.work / name).unlink(missing_ok=True)
    launcher = [str(machine.python), value]
    try:
        path, _ = machine.script(env={"VALUE": value}, container=launcher)
    except (InputError, ValueError):
        assert refused_rightly(value)
        return
    code, said = machine.run(path)
    assert (code, said) == (0, "")
    assert machine.environment()["VALUE"] == value
    assert machine.arguments()[0] == value
    assert sorted(entry.name for entry in machine.work.iterdir()) == [
        "arguments", "environment", "touched"]


@RELAXED
@given(ANY)
@example("$(touch pwned)")
@example("-rf")
def test_the_command_that_asks_for_another_attempt_is_harmless_too(machine, value):
    (machine.work / "arguments").unlink(missing_ok=True)
    try:
        path, folder = machine.script(executor="slurm", srun=False,
                                      container=[str(machine.python), value])
    except (InputError, ValueError):
        assert refused_rightly(value)
        return
    assert machine.run(path, {"STUB_CODE": "3"}) == (3, "")
    assert machine.arguments() == [
        value, str(machine.python), "-m", "l3hpc.worker.requeue", str(folder), "0",
        "ended", "3"]
    assert sorted(entry.name for entry in machine.work.iterdir()) == [
        "arguments", "environment", "touched"]


def refused_rightly(value):
    """Only control characters (and what UTF-8 cannot hold) are refused here."""
    import unicodedata

    return any(unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") for one in value)


@RELAXED
@given(ANY)
@example("a b")
@example("é")
@example("$(touch pwned)")
def test_a_workspace_of_any_name_works_or_is_refused(machine, value):
    workspace = machine.folder / "spaces" / value
    if not value or "/" in value or value in (".", "..") or len(value.encode(
            errors="replace")) > 200:
        return
    (machine.work / "arguments").unlink(missing_ok=True)
    try:
        path, folder = machine.script(workspace=workspace)
    except InputError:
        assert refused_rightly(value) or any(one in value for one in "\"'\\")
        return
    code, said = machine.run(path)
    assert (code, said) == (0, "")
    assert machine.arguments()[-1] == str(folder / "logs")
    assert marker(folder, "0.exit")["code"] == 0
    assert sorted(entry.name for entry in machine.work.iterdir()) == [
        "arguments", "environment", "touched"]


@RELAXED
@given(ANY)
def test_slurm_names_are_one_harmless_line_or_refused(machine, value):
    try:
        profile = dict.fromkeys(("account", "partition", "qos", "constraint", "reservation",
                                 "wckey", "mail_user", "exclude"), value)
        path, _ = machine.script(executor="slurm", **profile)
    except (InputError, ValueError):
        return
    said = [line for line in path.read_text().splitlines() if line.startswith("#SBATCH")]
    assert f"#SBATCH --account={value}" in said or f'#SBATCH --account="{value}"' in said
    head = path.read_text().split("set -euo pipefail")[0].splitlines()
    assert all(line.startswith("#") or not line for line in head)
    assert not value.startswith("-") and not any(one.isspace() for one in value)
