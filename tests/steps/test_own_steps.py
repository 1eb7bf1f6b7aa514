"""Commands and functions as steps of a pipeline: what they are given, refused, and leave."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest
from waiting import until

from l3hpc.config import settings
from l3hpc.errors import InputError, L3hpcError
from l3hpc.io.files import read_json, write_json
from l3hpc.pipelines import plan
from l3hpc.pipelines.plan import Request
from l3hpc.schedulers import requeue_policy, scripts
from l3hpc.steps import shell
from l3hpc.worker import execute, node_scratch, standalone

pytestmark = pytest.mark.slow
ODD = "a b'\"; $(touch HACK) `touch HACK` *"
SOURCE = """
import json
import helper

def show(task, audio, level=1, *, word="x"):
    (task.output / "seen.json").write_text(json.dumps([audio.name, level, word, helper.SIGN]))
    return {"level": level}

def fails(task):
    raise SystemExit(0)

def odd(task):
    return {1j}

def wrong(task):
    import json
    return json.loads(helper.text())

@staticmethod
def decorated(*anything):
    pass
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with recordings, code, and a way to plan a pipeline of own steps."""
    monkeypatch.chdir(tmp_path)
    Path("jobs").mkdir()
    Path("cluster.yaml").write_text("cluster: local\n")
    Path("recordings").mkdir()
    for name in ("b.wav", "a 1.wav", ".hidden.wav", "notes.txt"):
        Path("recordings", name).write_text(name)
    Path("own.py").write_text(SOURCE)
    Path("helper.py").write_text("SIGN = 7\n")

    def planned(*sets, **steps):
        Path("jobs/own.yaml").write_text(json.dumps({"steps": steps}))
        made = plan.build("own", settings.load(environ={}), Request(sets=sets))
        for step in made.steps:
            for path in (made.step_folder(step.name).config, step.artifact / "config.json"):
                write_json(path, step.config(made.run))
        return made

    return planned


def run(made, name="own", index=0):
    """Run one task; its output folder."""
    execute.run_task(made.step_folder(name).config, index)
    step = next(step for step in made.steps if step.name == name)
    return step.artifact / f"{index:04d}"


def entry(command="true", **more):
    return {"kind": "shell", "command": command, **more}


def test_values_reach_bash_as_variables_and_are_never_executed(place):
    made = place(own=entry('printf "%s\\n" "$L3_PARAM_WORD" "$L3_INPUT_AUDIO" > seen; pwd >> seen',
                           inputs={"audio": "recordings/b.wav"}, params={"word": ODD}))
    folder = run(made)
    seen = (folder / "seen").read_text().splitlines()
    assert seen[:2] == [ODD, str(Path("recordings/b.wav").absolute())]
    assert Path(seen[2]).parent == folder.parent  # still under its temporary name
    assert not list(Path().rglob("HACK"))


def test_temporary_files_of_a_command_are_on_the_node(place, tmp_path, monkeypatch):
    node = tmp_path / "node"
    node.mkdir()
    monkeypatch.setattr(node_scratch, "_setting", str(node))
    made = place(own=entry('pwd > seen; file="$(mktemp)"; echo "$file" >> seen'))
    seen = (run(made) / "seen").read_text().splitlines()
    assert all(Path(line).is_relative_to(node) for line in seen) and len(seen) == 2
    assert not Path(seen[1]).exists()


@pytest.mark.parametrize(("setting", "inherited"), [("/missing", "/tmp"), ("", None)])
def test_temporary_files_of_a_command_without_a_node_are_in_its_scratch(
        place, monkeypatch, setting, inherited):
    monkeypatch.setattr(node_scratch, "_setting", setting)
    monkeypatch.delenv("TMPDIR", raising=False)
    if inherited:
        monkeypatch.setenv("TMPDIR", inherited)
    made = place(own=entry('echo "$TMPDIR" > seen; echo "$L3_SCRATCH" >> seen; mktemp'))
    temporary, scratch = (run(made) / "seen").read_text().splitlines()
    assert Path(temporary).parent == Path(scratch) and not Path(temporary).exists()


def test_the_temporary_folder_of_the_job_is_used_where_no_scratch_is_set(
        place, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    made = place(own=entry('echo "$TMPDIR" > seen'))
    assert (run(made) / "seen").read_text().split() == [str(tmp_path)]


def test_arguments_of_a_list_stay_what_they_are(place):
    words = ["x{param.word}y", "{input.audio}", "{task}/{tasks}", "{other}", "$HOME"]
    script = "import sys; open('seen', 'w').write(chr(10).join(sys.argv[1:]))"
    made = place(own=entry([sys.executable, "-c", script, *words], each="audio/*.wav",
                           inputs={"audio": "recordings"}, params={"word": ODD}))
    assert [shard["file"] for shard in made.steps[0].shards] == ["a 1.wav", "b.wav"]
    seen = (run(made, index=1) / "seen").read_text().splitlines()
    assert seen == [f"x{ODD}y", str(Path("recordings/b.wav").absolute()), "1/2", "{other}", "$HOME"]
    assert not list(Path().rglob("HACK"))


def test_a_function_gets_inputs_and_parameters_by_name(place):
    step = {"kind": "python", "function": "own.py:show", "code": ["helper.py"],
            "each": "audio/*.wav", "inputs": {"audio": "recordings"},
            "params": {"level": 2, "word": "w"}}
    made = place("own.level=5", own=step)
    # what was planned is run, whatever happens to the files
    Path("own.py").write_text("raise SystemExit\n")
    Path("helper.py").unlink()
    folder = run(made)
    assert read_json(folder / "seen.json") == ["a 1.wav", 5, "w", 7]
    assert read_json(folder / "result.json")["summary"] == {"level": 5}
    assert "helper" not in sys.modules and not [path for path in sys.path if "l3hpc-code" in path]


def test_the_report_shows_the_names_of_the_code_and_own_parameters(place):
    from l3hpc.steps import step

    made = place(own={"kind": "python", "function": "own.py:show", "code": ["helper.py"],
                      "inputs": {"audio": "recordings/b.wav"}, "params": {"level": 0}})
    assert step("python").shown_params(made.steps[0].params) == {
        "inputs": {"audio": str(Path("recordings/b.wav").absolute())},
        "code": "helper.py, own.py", "function": "own.py:show", "level": 0}


def test_what_decides_the_fingerprint(place):
    step = {"kind": "python", "function": "own.py:show", "code": ["helper.py"],
            "inputs": {"audio": "recordings/b.wav"}, "params": {"level": 2}}

    def mark(**changes):
        return place(own={**step, **changes}).steps[0].fingerprint

    first = mark()
    Path("recordings/b.wav").rename("moved.wav")
    assert mark(inputs={"audio": "moved.wav"}) == first  # the content counts, not the place
    Path("moved.wav").write_text("other")
    marks = {first, mark(inputs={"audio": "moved.wav"})}
    Path("recordings/b.wav").write_text("b.wav")
    assert mark(resources={"cpus": 2}) == first
    marks |= {mark(params={"level": 3}), mark(each=2), mark(outputs=["seen.json"])}
    Path("helper.py").write_text("SIGN = 8\n")
    marks.add(mark())
    assert len(marks) == 6


def test_of_a_folder_only_the_files_that_each_lists_count(place):
    step = entry(inputs={"audio": "recordings"}, each="audio/*.wav")
    first = place(own=step).steps[0].fingerprint
    Path("recordings/notes.txt").write_text("more")
    assert place(own=step).steps[0].fingerprint == first
    Path("recordings/b.wav").write_text("more")
    assert place(own=step).steps[0].fingerprint != first


def test_one_task_for_each_task_of_a_needed_step(place):
    made = place(**{"first-one": entry('echo "$L3_TASK of $L3_TASKS" > n', each=2),
                    "own": entry('cp "$L3_INPUT_FIRST_ONE/n" .', needs="first-one",
                                 each="first-one", outputs=["n"])})
    run(made, "first-one", 0)
    run(made, "first-one", 1)
    assert (run(made, "own", 1) / "n").read_text() == "1 of 2\n"


@pytest.mark.parametrize(("needs", "ok"), [("some", False), ({"some": "any"}, True)])
def test_a_partial_input_is_accepted_where_the_pipeline_says_so(place, needs, ok):
    steps = {"some": entry('echo > n', each=2),
             "own": entry('ls "$L3_INPUT_SOME" > seen', needs=needs)}
    made = place(**steps)
    run(made, "some", 1)
    if not ok:
        with pytest.raises(InputError, match="input 'some' is not complete"):
            run(made)
        return
    folder = run(made)
    assert "0001" in (folder / "seen").read_text()
    assert read_json(folder / "result.json")["partial_inputs"] == ["some"]
    run(made, "some", 0)
    again = place(**steps)  # what was made of a part is not taken for what is made of all of it
    assert again.steps[0].missing == () and again.steps[1].missing == (0,)
    assert "partial_inputs" not in read_json(run(again) / "result.json")
    assert place(**steps).steps[1].missing == ()


REFUSED = {
    "no command": ({"kind": "shell"}, "own.command: field required", "jobs/own.yaml:1"),
    "of another kind": ({"kind": "train", "command": "x"}, "train takes no command", "own.yaml"),
    "in params": (entry(params={"each": 3}), "'each' cannot stand in params:", "own.yaml"),
    "a list as a value": (entry(params={"a": [1]}), "'a' is not a single value", "own.yaml"),
    "case": (entry(["x"], params={"a": 1, "A": 2}), "differ only in upper and lower", "own.yaml"),
    "a name": (entry(params={"a-b": 1}), "'a-b' cannot be the name of a parameter", "own.yaml"),
    "a device": (entry(inputs={"a": "/dev/zero"}), "neither a regular file nor a folder", "zero"),
    "no file": (entry(inputs={"a": "gone"}), "input 'a': no such file or folder", "gone"),
    "placeholder in bash": (entry("echo {param.a}", params={"a": 1}), "text that bash reads",
                            "own.yaml"),
    "path in bash": (entry("ls {paths.audio}"), "text that bash reads", "own.yaml"),
    "placeholder": (entry(["x", "{param.b}"], params={"a": 1}), "{param.b} names nothing",
                    "own.yaml"),
    "each": (entry(each="audo/*", inputs={"audio": "recordings"}), "neither an input nor",
             "own.yaml"),
    "no match": (entry(each="audio/*.flac", inputs={"audio": "recordings"}), "no file matches",
                 "recordings"),
    "number": (entry(each=0), "a number of tasks is 1 to 100,000", "own.yaml"),
    "true as a number": (entry(each=True), "a number of tasks is", "own.yaml"),
    "a word": (entry(["head", "-n", 1]), "1 is not text: put it in quotes", "own.yaml"),
    "inputs": (entry(inputs=["recordings"]), "write names with their paths", "own.yaml"),
    "code as a path": (entry(code={"../x": ""}), "write a list of paths", "own.yaml"),
    "no pattern": (entry(each="a//etc/*", inputs={"a": "jobs"}), "not a pattern", "own.yaml"),
    "above": (entry(each="a/../*", inputs={"a": "jobs"}), "no file matches", "jobs"),
    "outputs": (entry(outputs=["../x"]), "is not a pattern of files", "own.yaml"),
    "result": (entry(outputs=["result.json"]), "result.json is written by l3hpc", "own.yaml"),
    "function": ({"kind": "python", "function": "own.py"}, "names no function", "own.yaml"),
    "no such function": ({"kind": "python", "function": "own.py:shwo"}, "no function 'shwo'",
                         "own.py"),
    "argument": ({"kind": "python", "function": "own.py:fails", "params": {"lvl": 1}},
                 "fails has no argument 'lvl'", "own.py:9"),
    "missing argument": ({"kind": "python", "function": "own.py:show"}, "show needs 'audio'",
                         "own.py:5"),
    "module": ({"kind": "python", "function": "nowhere.at:all"}, "cannot be found", "own.yaml"),
    "both": ({"kind": "python", "function": "own.py:decorated", "params": {"a": 1},
              "inputs": {"a": "own.py"}}, "both an input and a parameter", "own.yaml"),
    "code": (entry(code=["gone.py"]), "cannot be read", "gone.py"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_work_is_refused_with_its_place(place, why):
    step, message, where = REFUSED[why]
    with pytest.raises(InputError) as refused:
        place(own=step)
    assert message in refused.value.message and where in refused.value.where, refused.value


def test_any_is_refused_for_a_step_that_needs_the_whole_output(place):
    with pytest.raises(InputError, match="sample cannot run after 'extract' has failed") as error:
        place(extract={}, sample={"needs": {"extract": "any"}})
    assert error.value.allowed == "any is for steps of kind shell or python"


def test_a_step_runs_where_the_profile_sends_another(place):
    Path("cluster.yaml").write_text(json.dumps({"cluster": "site", "clusters": {"site": {
        "partition": "cpu", "gpu_request": "none", "steps": {"train": {
            "partition": "gpu", "mem": "64GB", "gpu_request": "gres", "gpu_type": "a100"}}}}}))
    made = place(own=entry(like="train", resources={"gpus": 1, "mem": "1GB"}), two=entry())
    lines, others = (scripts.directives(made, step) for step in made.steps)
    assert {"#SBATCH --partition=gpu", "#SBATCH --gres=gpu:a100:1",
            "#SBATCH --mem=1024M"} <= {*lines}
    assert "#SBATCH --partition=cpu" in others
    assert requeue_policy.of(made.profile, made.steps[0]).helper == ("--partition=gpu",)
    with pytest.raises(InputError, match="unknown step 'trian'"):
        place(own=entry(like="trian"))


def test_set_keeps_the_type_that_the_pipeline_declares(place):
    made = place("own.word=8", "own.level=8", own=entry(params={"word": "7", "level": 7}))
    assert {name: made.steps[0].params[name] for name in ("word", "level")} == {
        "word": "8", "level": 8}
    with pytest.raises(InputError, match="own has no parameter 'lvl'") as error:
        place("own.lvl=8", own=entry(params={"level": 7}))
    assert "did you mean 'level'" in error.value.allowed
    with pytest.raises(InputError, match="own has no parameter 'command'"):
        place("own.command=x", own=entry())


@pytest.mark.parametrize(("helper", "place_in_code"), [
    ("def text():\n    return nothing\n", "helper.py:2 in text: return nothing"),
    ("def text():\n    return '{'\n", "own.py:17 in wrong: return json.loads(helper.text())"),
    ("import nothing\n", "helper.py:1 in <module>: import nothing"),
])
def test_an_error_in_a_function_is_shown_by_the_innermost_line_of_the_users_files(
        place, helper, place_in_code):
    Path("helper.py").write_text(helper)
    made = place(own={"kind": "python", "function": "own.py:wrong", "code": ["helper.py"]})
    with pytest.raises(Exception) as caught:
        run(made)
    text = "".join(traceback.format_exception(caught.value))
    assert place_in_code.partition(": ")[2] in text
    [marker] = Path().rglob("*error.json")
    assert read_json(marker)["where"] == place_in_code


@pytest.mark.parametrize(("step", "message"), [
    (entry("echo one; printf 'no such sensor\\r\\n\\n' >&2; exit 3"),
     "the command ended with exit code 3: no such sensor\n"),
    (entry("exit 3"), "the command ended with exit code 3\n"),
    (entry("printf %5000s x; exit 3"), "exit code 3: x\n"),
    (entry("printf 'y%.0s' {1..300}; exit 3"), f"exit code 3: {'y' * 200}\n"),
    (entry("no-such-program"), "exit code 127"),
    (entry(["no-such-program"]), "'no-such-program' cannot be started"),
    (entry("false | true"), "exit code 1"),
    (entry("echo > a", outputs=["b.csv"]), r"the output 'b.csv' was not written\nwritten: a"),
    (entry("echo > result.json"), "wrote result.json"),
    ({"kind": "python", "function": "own.py:fails", "code": ["helper.py"]}, "raised SystemExit"),
    ({"kind": "python", "function": "own.py:odd", "code": ["helper.py"]}, "returned {1j}"),
])
def test_a_task_fails_with_the_reason(place, step, message):
    made = place(own=step)
    with pytest.raises(L3hpcError, match=message):
        run(made)
    assert not made.steps[0].artifact.joinpath("0000").exists()


def test_the_last_line_of_a_log_is_that_of_the_command(tmp_path):
    """Not an earlier one, nor one of the progress; a pipe has no last line."""
    code = ("import os; from l3hpc.steps import shell\n"
            "try: shell.run_command(['bash', '-c', 'echo why; echo running the command, 0:30; "
            "exit 2'], '.', os.environ)\n"
            "except Exception as error: print(error.message)")
    log = tmp_path / "log"
    for text, said in (("", "exit code 2: why"), ("x" * 9000 + "\n", "exit code 2: why")):
        log.write_text(text)
        with log.open("a") as stream:
            done = subprocess.run([sys.executable, "-c", code], stderr=stream, text=True,
                                  stdout=subprocess.PIPE, check=True)
        assert done.stdout == f"the command ended with {said}\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "the command ended with exit code 2\n"


def test_a_log_that_cannot_be_read_hides_no_failure(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(shell, "open", refuse, raising=False)
    assert shell._last_line(0) == ""


def test_the_memory_of_the_command_counts(place):
    folder = run(place(own=entry([sys.executable, "-c", "x = b'1' * (600 * 2**20)"])))
    assert read_json(folder / "result.json")["peak_memory_mb"] > 600


def test_a_killed_command_ends_the_job_as_if_it_had_been_killed_itself(place):
    with pytest.raises(L3hpcError, match="perhaps it ran out of memory") as error:
        run(place(own=entry("kill -9 $$")))
    assert error.value.exit_code == 137


def test_a_stopped_task_leaves_no_process_behind(tmp_path, monkeypatch):
    """As at a time limit: the handler of the signal raises while the command runs."""

    class Patience(float):
        """Two seconds from when the child that takes TERM has ended."""

        def __radd__(self, now):
            until((tmp_path / "saved").exists)
            return time.monotonic() + float(self)

    monkeypatch.setattr(shell, "TERMINATE_S", Patience(2.0))

    def stop(signum, frame):
        raise SystemExit(85)

    def warn():
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)

    script = """
        (trap 'echo saved > saved; exit' TERM; touch ready; while :; do sleep 0.02; done) &
        until [ -e ready ]; do sleep 0.02; done
        trap '' TERM; sleep 600 & echo $! > p; mv p pid; wait"""
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        threading.Thread(target=warn).start()
        with pytest.raises(SystemExit):
            shell.run_command([*shell.BASH, script], tmp_path, os.environ)
    finally:
        signal.signal(signal.SIGUSR1, before)
    state = subprocess.run(["ps", "-o", "stat=", (tmp_path / "pid").read_text().strip()],
                           capture_output=True, text=True).stdout.strip()
    assert state[:1] in ("", "Z"), state  # gone, or only its exit code is left
    assert (tmp_path / "saved").exists()


def test_nobody_runs_the_code_in_the_config_of_another(place, monkeypatch):
    made = place(own=entry("touch ran"))
    path = made.step_folder("own").config
    monkeypatch.setattr("l3hpc.io.owners.is_trusted_owner", lambda uid, folder: False)
    with pytest.raises(InputError, match="it is not executed"):
        execute.run_task(path, 0)
    assert not list(made.steps[0].artifact.glob("0*"))


def test_an_installed_module_must_be_the_one_that_was_planned(place, tmp_path, monkeypatch):
    module = tmp_path / "lab_functions.py"
    module.write_text("def one(task):\n    return {'n': 1}\n")
    monkeypatch.syspath_prepend(tmp_path)
    made = place(own={"kind": "python", "function": "lab_functions:one"})
    assert "lab_functions" not in sys.modules  # planning reads it
    module.write_text("def one(task):\n    return {'n': 2}\n")
    with pytest.raises(L3hpcError, match="has changed since the pipeline was submitted"):
        run(made)
    again = place(own={"kind": "python", "function": "lab_functions:one"})
    assert again.steps[0].fingerprint != made.steps[0].fingerprint
    assert read_json(run(again) / "result.json")["summary"] == {"n": 2}
    del sys.modules["lab_functions"]


def test_a_command_runs_outside_of_a_pipeline(tmp_path):
    (tmp_path / "x").write_text("x")
    result = standalone.run_standalone("shell", {"command": 'cat "$L3_INPUT_TEXT/x" > y'},
                                       {"text": tmp_path}, tmp_path / "out")
    assert list(result["files"]) == ["y"] and (tmp_path / "out/y").read_text() == "x"


@pytest.mark.parametrize(("results", "text"), [
    ([{"files": 1}], "1 file"), ([{"files": 3, "peak": 0.5}], "3 files, peak 0.5"),
    ([{"files": 1}, {"files": 1}], "2 tasks, 1 file each"),
    ([{"files": 0}, {"files": 12}], "2 tasks, 0 to 12 files each"),
    ([{"peak": 1}, {"peak": 1}], "2 tasks, peak 1"),
])
def test_the_summary_of_own_steps(results, text):
    from l3hpc.steps import registry

    assert registry.step("shell").summary(results) == text
