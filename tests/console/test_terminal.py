"""No locale, terminal or value can break what is printed, or steer the terminal."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import l3hpc
from l3hpc.console import terminal
from l3hpc.io.values import log_text, one_line
from l3hpc.runs import status
from l3hpc.workspace import records
from l3hpc.workspace.layout import Workspace
from l3hpc.workspace.run_record import Attempt, RunRecord, StepRecord

pytestmark = pytest.mark.slow

NASTY = "a\x1b]0;owned\x07b\x1b[2J\x9b31m\rc\u202eevil\u2066\x00\x7f\udcff→é😀"
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
LISTINGS = [
    ["status"], ["status", "--all", "--json"], ["usage", "latest"], ["logs", "latest", "train"],
    ["ledger", "show"], ["ledger", "status"], ["config", "show"], ["config", "check"],
    ["cancel", "latest"], ["resume", "latest", "--dry-run"], ["doctor", "--quick"], ["--help"],
    ["submit", "--help"], ["stauts"],
]
LOCALES = [
    {"PYTHONIOENCODING": "latin-1", "TERM": "dumb", "COLUMNS": "1"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "COLUMNS": "0", "LINES": "x"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "COLUMNS": "9" * 30},
]


@given(st.text(st.characters() | st.sampled_from(NASTY)),
       st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252", "utf-16"]))
def test_any_text_is_written_in_any_encoding(text, encoding):
    below = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    terminal.SafeStream(below).write(text)
    below.flush()
    shown = below.buffer.getvalue().decode(encoding)
    assert not HIDDEN.search(shown.replace("\r\n", "\n"))
    assert not HIDDEN.search(one_line(text)) and "\n" not in one_line(text)


@given(st.text(st.characters() | st.sampled_from(NASTY)),
       st.sampled_from(["utf-8", "ascii", "latin-1"]))
def test_json_stays_json(text, encoding):
    below = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    terminal.SafeStream(below).write(json.dumps({"value": text}, ensure_ascii=encoding != "utf-8"))
    below.flush()
    assert json.loads(below.buffer.getvalue()) == {"value": text}


def test_what_a_log_holds_is_readable_and_harmless():
    assert log_text("\x1b[31mred\x1b[0m\tx\r\n1 %\r2 %\n") == "red\tx\n1 %\n2 %\n"
    assert log_text("\x1b[\x1b[0m2J\x1b]52;c;eA==\x07") == r"\x1b[2J\x1b]52;c;eA==\x07"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """One run whose record, markers and log hold what a terminal must not get."""
    here = tmp_path_factory.mktemp("wörk")
    step = StepRecord("train", "train", str(here / "ws" / "artifacts" / "train" / "0"), 1, [],
                      state="submitted", job="1", submitted_tasks=[0],
                      attempts=[Attempt("1", False, [0], 1.0)])
    record = RunRecord("run", f"p{NASTY}", f"local{NASTY}", 1.0, "ada", "node", [], {}, "refused",
                       [step], local=True, note=f"x\nfake line {NASTY}")
    records.write(here / "ws", record)
    marks = Workspace(here / "ws").run("run").step("train").markers
    marks.mkdir(parents=True)
    (marks / "0.begin").write_text('{"job": "1", "time": 1}')
    (marks / "0.exit").write_text('{"job": "1", "code": 1, "time": 2}')
    (marks / "0.error.json").write_text(json.dumps(
        {"type": "E", "message": NASTY, "where": NASTY, "tail": [NASTY]}))
    logs = Workspace(here / "ws").run("run").step("train").logs
    logs.mkdir()
    (logs / "1_0_log.err").write_bytes(NASTY.encode("utf-8", "surrogatepass"))
    (here / "cluster.yaml").write_text("paths: {workspace: ws}\n")
    return here


def run(words, here, change, **options):
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("LC_", "LANG", "PYTHONIO", "PYTHONUTF8", "OUTPUT_DIR"))}
    return subprocess.run([sys.executable, "-m", "l3hpc", *words], cwd=here, timeout=240,
                          env=environment | {"LANG": "C.UTF-8"} | change, **options)


def test_a_record_with_surrogates_is_written_and_read(workspace):
    assert records.read(workspace / "ws", "run").pipeline == f"p{NASTY}"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
@pytest.mark.parametrize("words", LISTINGS, ids=" ".join)
def test_every_listing_works_in_every_encoding(workspace, words, encoding, monkeypatch):
    from l3hpc.cli import main

    monkeypatch.chdir(workspace)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert (sys.stdout, sys.stderr) == (out, err)
    said, complaint = (stream.buffer.getvalue().decode(encoding) for stream in (out, err))
    assert ended.value.code in (0, 1, 2) and "This is a bug" not in complaint
    assert not HIDDEN.search(said) and not HIDDEN.search(complaint)
    if words == ["status"]:
        assert ended.value.code == 0 and "run" in said and "\nfake" not in said
    if "--json" in words:
        [found] = json.loads(said)["runs"]
        assert found["pipeline"] == f"p{NASTY}"


@pytest.mark.parametrize("change", LOCALES)
def test_no_locale_or_terminal_breaks_a_listing(workspace, change):
    done = run(["status"], workspace, change, capture_output=True)
    assert done.returncode == 0 and done.stderr == b"" and b"run" in done.stdout


def test_nothing_steers_a_terminal_but_our_own_colours(workspace):
    main, second = pty.openpty()
    done = run(["doctor", "--quick"], workspace, {"TERM": "xterm"}, stdout=second, stderr=second)
    os.close(second)
    text = b""
    while True:
        try:
            text += os.read(main, 65536)
        except OSError:
            break
    os.close(main)
    assert done.returncode in (0, 1) and b"\x1b[32m" in text  # green marks
    assert not HIDDEN.search(re.sub("\x1b\\[[0-9;]*m|\r\n", "", text.decode()))


@pytest.mark.parametrize(("line", "code"), [
    ('"$@" >&-', 0), ('"$@" 2>&-', 0), ('"$@" <&- >&- 2>&-', 0), ('"$@" > /dev/full', 1),
    ('set -o pipefail; "$@" | true', 130), ('set -o pipefail; "$@" nonsense 2>&1 | true', 2),
])
def test_closed_full_and_broken_streams(workspace, line, code):
    done = subprocess.run(["bash", "-c", line, "bash", sys.executable, "-m", "l3hpc", "status"],
                          cwd=workspace, capture_output=True, timeout=240)
    assert b"Traceback" not in done.stderr and b"ignored" not in done.stderr
    assert done.returncode == code or code == 130 and done.returncode == 0


def test_a_reader_that_has_gone_is_noticed_through_coloured_text_too():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8", buffering=1) as pipe:
        stream = terminal.SafeStream(pipe)
        with pytest.raises(BrokenPipeError):
            terminal.with_controls(stream).write("\x1b[32mgreen\n")
        assert stream.broken
        terminal.discard_output(pipe)


@pytest.mark.parametrize("streams", [("stdout", "stderr"), ("stderr",)])
def test_what_a_full_disk_does_not_take_ends_no_work(tmp_path, streams):
    """The log of a job may lie on a full disk: lines are lost, not the work of a day."""
    code = ("import sys\nfrom l3hpc.console import progress, terminal\n"
            f"terminal.install_safe_output(lossy={streams!r})\n"
            "told = progress.LogProgress()\ntold.start('training', 100)\n"
            "for epoch in range(100):\n    told.note('x')\n    print('e' * 5000, file=sys.stderr)\n"
            f"    print('a line') if 'stdout' in {streams!r} else None\n"
            "open('made', 'w', encoding='utf-8').close()")
    full = "1>/dev/full 2>/dev/full" if "stdout" in streams else "2>/dev/full"
    done = subprocess.run(["bash", "-c", f'"$0" -c "$1" {full}', sys.executable, code],
                          cwd=tmp_path, timeout=240)
    assert done.returncode == 0 and (tmp_path / "made").exists()


@pytest.mark.parametrize(("line", "code"), [
    ('"$@" >out 2>/dev/full', 0), ('set -o pipefail; "$@" | head -1 >out', 130),
    ('set -o pipefail; "$@" 2>&1 | grep -m1 "^submitted" >out', 130)])
def test_a_run_in_the_foreground_goes_on_without_readers(tmp_path, line, code):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/own.yaml").write_text(
        "description: x\nsteps:\n  one: {kind: shell, command: 'sleep 1; touch made', outputs: "
        "[made], resources: {cpus: 1, mem: 100MB, time: 10m}}\n  two: {kind: shell, command: "
        "'touch made', needs: one, resources: {cpus: 1, mem: 100MB, time: 10m}}\n")
    (tmp_path / "cluster.yaml").write_text(f"cluster: local\npaths: {{workspace: {tmp_path}/ws}}\n"
                                           "clusters: {local: {report: false}}\n")
    done = subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, "-m", "l3hpc", "submit", "own"],
        cwd=tmp_path, capture_output=True, timeout=240)
    assert done.returncode == code and b"Traceback" not in done.stderr
    [found] = status.collect(tmp_path / "ws")
    assert found.state == "done"


def test_files_of_ours_never_get_the_number_of_a_closed_stream(workspace):
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" >&- 2>&-', sys.executable,
         "import os\nfrom l3hpc.console import terminal\nterminal.install_safe_output()\n"
         "assert os.open('made', os.O_CREAT | os.O_WRONLY) > 2"], cwd=workspace)
    assert done.returncode == 0


def test_every_text_file_is_opened_with_an_encoding():
    """The locale's encoding decides nothing: a job may run under another one."""
    import ast

    wrong = []
    for path in sorted(Path(l3hpc.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else \
                getattr(node.func, "id", "")
            named = {word.arg: word.value for word in node.keywords}
            texts = [each.value for each in [*node.args[:2], *named.values()]
                     if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            binary = any(re.fullmatch("[rwax+]*b[rwax+]*", each) for each in texts)
            plain = (name == "open" and isinstance(node.func, ast.Name) and not binary
                     or name == "read_text" and not node.args
                     or name == "NamedTemporaryFile" and "w" in texts
                     or name == "fdopen" and not binary
                     or name in ("run", "Popen") and "text" in named)
            if plain and "encoding" not in named and None not in named:
                wrong.append(f"{path.name}:{node.lineno}")
    assert not wrong


@given(st.text(st.characters(exclude_characters="\x00") | st.sampled_from(NASTY[:9] + "'\\ $`;"),
               min_size=1))
def test_a_command_of_a_hint_can_be_pasted(word):
    from l3hpc.errors import command_line

    line = command_line("status", word)
    assert not HIDDEN.search(line) and "\n" not in line
    if "\udcff" not in word and all(not "\ud800" <= sign <= "\udfff" for sign in word):
        done = subprocess.run(["bash", "-c", f"l3hpc() {{ printf %s \"$2\"; }}; {line}"],
                              capture_output=True, env={"LC_ALL": "C.UTF-8"})
        assert done.stdout.decode() == word


def test_what_click_writes_as_bytes_for_a_shell_arrives_as_text():
    below = io.StringIO()
    terminal.SafeStream(below).write("plain,é\x1b[2J\n".encode())
    assert below.getvalue() == "plain,é\\x1b[2J\n"
