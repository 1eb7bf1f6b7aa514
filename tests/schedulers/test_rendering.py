import difflib
import os
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l3hpc import steps
from l3hpc.config.profile import ClusterProfile, Limits
from l3hpc.config.resources import Resources
from l3hpc.errors import InputError
from l3hpc.pipelines.planned import Plan, PlannedStep
from l3hpc.schedulers import scripts, templates

GOLDEN = Path(__file__).parent / "golden"

LOCAL = ClusterProfile(name="local", python="/usr/bin/python3", slots={"cpus": 2, "mem": "4GB"})
GREENE = ClusterProfile(
    name="greene", account="pr_42", partition="cpu,long", qos="normal",
    constraint="skylake|cascadelake&ib", reservation="course", wckey="sea", exclude="n[1-3],n7",
    gpu_request="gres", gpu_type="rtx8000", python="/opt/my python/bin/python",
    container="apptainer exec --nv '/img/a b.sif'", env={"GREETING": "it's $(date) `id`"},
    setup=["module purge", 'source "$HOME/env/bin/activate"'], mail_user="you@example.org",
    array_parallelism=5, shared_group=True,
    steps={"train": {"partition": "gpu", "constraint": "v100"}})


def planned(kind="train", tasks=1, done=(), **resources):
    return PlannedStep(
        name=kind, kind=kind, params={}, needs=(), inputs={}, fingerprint="0123456789abcdef",
        artifact=Path("/scratch/you/ws/artifacts") / kind / "0123456789abcdef",
        shards=[{}] * tasks, done=tuple(done),
        resources=Resources(**{"cpus": 4, "mem_mb": 32768, "gpus": 2, "time_min": 10080,
                               **resources}))


def plan(*items, profile=GREENE, workspace="/scratch/you/ws"):
    return Plan("upstream-20261120-1a2b", "upstream", Path(workspace), profile, tuple(items))


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "profile", "item"), [
    ("train-greene", GREENE, planned()),
    ("extract-greene-array", GREENE, planned("extract", 12, (0, 1, 5), gpus=0)),
    ("train-local", LOCAL, planned(gpus=0)),
    ("sample-local-array", LOCAL, planned("sample", 3, gpus=0, cpus=1)),
])
def test_golden(name, profile, item):
    text = scripts.render(plan(item, profile=profile), item)
    path = GOLDEN / f"{name}.sbatch"
    if os.environ.get("L3HPC_WRITE_GOLDEN"):
        path.write_text(text)
    expected = path.read_text()
    assert text == expected, "\n".join(difflib.unified_diff(
        expected.splitlines(), text.splitlines(), "golden", "rendered", lineterm=""))


@pytest.mark.parametrize("kind", steps.BUILT_IN)
@pytest.mark.parametrize("profile", [LOCAL, GREENE], ids=lambda profile: profile.name)
def test_bash_finds_no_fault_in_any_script(kind, profile, tmp_path):
    item = planned(kind, 3)
    script = tmp_path / "script"
    script.write_text(scripts.render(plan(item, profile=profile), item))
    subprocess.run(["bash", "-n", script], check=True)


def test_the_same_text_every_time():
    item = planned()
    assert len({scripts.render(plan(item), item) for _ in range(3)}) == 1
    assert scripts.render(plan(item), "train") == scripts.render(plan(item), item)


def lines(profile, item=None):
    item = item or planned()
    return scripts.directives(plan(item, profile=profile), item)


@pytest.mark.parametrize(("changes", "present", "absent"), [
    ({"gpu_request": "gres"}, "#SBATCH --gres=gpu:rtx8000:2", "--gpus-per-node"),
    ({"gpu_request": "gpus-per-node"}, "#SBATCH --gpus-per-node=rtx8000:2", "--gres"),
    ({"gpu_request": "gpus-per-node", "gpu_type": None}, "#SBATCH --gpus-per-node=2", "--gres"),
    ({"gpu_request": "none"}, "#SBATCH --cpus-per-task=4", "gpu:"),
    ({"memory_request": "mem"}, "#SBATCH --mem=32768M", "--mem-per-cpu"),
    ({"memory_request": "mem-per-cpu"}, "#SBATCH --mem-per-cpu=8192M", "--mem="),
    ({"gpu_request": "shard", "gpu_type": None}, "#SBATCH --gres=shard:2", "gpu:"),
    ({"gpu_type": "1g.10gb"}, "#SBATCH --gres=gpu:1g.10gb:2", "--gpus-per-node"),
    ({"memory_request": "none"}, "#SBATCH --time=7-00:00:00", "--mem"),
    ({"account": None}, "#SBATCH --partition=gpu", "--account"),
    ({"mail_user": None}, "#SBATCH --requeue", "--mail"),
])
def test_request_styles(changes, present, absent):
    said = lines(GREENE.model_copy(update=changes))
    assert present in said
    assert not any(absent in line for line in said)


@pytest.mark.parametrize(("style", "expected"), [
    ("mem", ["#SBATCH --mem=0"]), ("mem-per-cpu", ["#SBATCH --mem=0"]), ("none", [])])
def test_no_amount_of_memory_requests_all_of_the_node(style, expected):
    said = lines(GREENE.model_copy(update={"memory_request": style}), planned(mem_mb=0))
    assert [line for line in said if "--mem" in line] == expected


def test_options_of_a_step_replace_those_of_the_profile():
    profile = ClusterProfile(
        name="site", extra=["--nice=100", "--licenses=matlab:1"], exclusive=True,
        steps={"train": {"extra": ["--nice=7", "--comment=two words"], "gpu_request": "shard"},
               "fit": {"exclusive": False}})
    said = lines(profile)
    assert said[-4:] == ["#SBATCH --exclusive", "#SBATCH --nice=7",
                         "#SBATCH --licenses=matlab:1", '#SBATCH --comment="two words"']
    assert "#SBATCH --gres=shard:2" in said
    other = lines(profile, planned("fit"))
    assert other[-2:] == ["#SBATCH --nice=100", "#SBATCH --licenses=matlab:1"]
    assert "#SBATCH --gres=gpu:2" in other


def test_the_profiles_word_on_a_step_wins():
    said = lines(GREENE)
    assert "#SBATCH --partition=gpu" in said and "#SBATCH --constraint=v100" in said
    assert "#SBATCH --partition=cpu,long" in lines(GREENE, planned("fit"))


def test_no_dependency_and_the_signal_for_the_shell():
    said = lines(GREENE)
    assert not any("--dependency" in line for line in said)
    assert "#SBATCH --signal=B:USR2@90" in said and "#SBATCH --open-mode=append" in said
    assert "#SBATCH --requeue" in said


@pytest.mark.parametrize(("tasks", "parallel", "spec"), [
    ([0], None, "0"), ([3], None, "3"), ([0, 1, 2, 3, 7], 5, "0-3,7%5"), ([5, 1, 3], None, "1,3,5"),
    ([0, 1], None, "0-1"), ([9, 8, 7, 0], 2, "0,7-9%2"),
])
def test_array_spec(tasks, parallel, spec):
    assert scripts.array_spec(tasks, parallel) == spec


def test_an_array_above_the_limit_is_split_and_counts_on():
    small = GREENE.model_copy(update={"limits": Limits(array=5)})
    item = planned("extract", 12, (0, 5, 6, 7, 8, 9), gpus=0)
    made = plan(item, profile=small)
    assert [(part.offset, part.tasks) for part in scripts.parts(made, item)] == [
        (0, (1, 2, 3, 4)), (10, (10, 11))]
    first, second = (scripts.render(made, item, part) for part in scripts.parts(made, item))
    assert "#SBATCH --array=1-4" in first
    assert 'task="${L3HPC_TASK:-${SLURM_ARRAY_TASK_ID:-0}}"' in first
    assert "#SBATCH --array=0-1" in second
    assert 'task="$((SLURM_ARRAY_TASK_ID + 10))"' in second


def test_an_array_names_its_logs_by_array_and_task():
    said = lines(LOCAL, planned("extract", 4, (0, 1, 2)))
    assert "#SBATCH --array=3" in said
    assert any(line.endswith("/logs/%A_%a_0_log.out") for line in said)
    assert any(line.endswith("/logs/%j_0_log.err") for line in lines(LOCAL))
    assert not any("--array" in line for line in lines(LOCAL))


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\x00b", "a\u2028b", "a\x85b", "", "x" * 1025,
                                   'a"b', "a'b", "a\\b"])
def test_values_that_no_directive_can_hold(value):
    with pytest.raises(InputError):
        scripts.directive("job-name", value)


@given(st.text("\n a"))
def test_several_empty_lines_become_one(text):
    assert templates._without_gaps(text) == re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def test_values_that_are_equal_and_read_differently_are_quoted_as_they_read():
    assert [str(templates.quoted(value)) for value in (1, True, 1.0, "1 1", "1 1")] == [
        "1", "True", "1.0", "'1 1'", "'1 1'"]


@pytest.mark.parametrize("value", ["a\nrm -rf x", "a\rb", "a\tb", "a\0b", "a\x1b[31m", "a\udcff",
                                   "x" * 16_385])
def test_a_value_that_cannot_be_a_word_of_shell_is_refused(value):
    with pytest.raises(InputError):
        templates.quoted(value)
    assert str(templates.quoted("x" * 16_384)) == "x" * 16_384


def test_spaces_in_a_directive_are_quoted():
    assert scripts.directive("output", "/a b/%j.out") == '#SBATCH --output="/a b/%j.out"'
    assert scripts.directive("output", "/é/%j.out") == '#SBATCH --output="/é/%j.out"'


def test_a_percent_in_the_workspace_is_no_pattern():
    item = planned()
    said = scripts.directives(plan(item, workspace="/a%j"), item)
    assert any(line.startswith("#SBATCH --output=/a%%j/runs/") for line in said)


class TestTemplates:
    """What people may write into their own templates/."""

    def rendered(self, name, text, item=None):
        Path("templates").mkdir(exist_ok=True)
        Path("templates", name).write_text(text)
        item = item or planned()
        return scripts.render(plan(item), item)

    def test_a_block_is_overridden(self):
        text = self.rendered("train.sbatch.j2", '{% extends "base.sbatch.j2" %}\n'
                             "{% block setup %}{{ super() }}\nulimit -c 0\n{% endblock %}")
        assert "\nmodule purge\n" in text and "\nulimit -c 0\n" in text
        assert "l3hpc.worker.job_entry" in text

    def test_their_base_reaches_every_step(self):
        text = self.rendered("base.sbatch.j2", '{% extends "default/base.sbatch.j2" %}\n'
                             "{% block setup %}\necho mine\n{% endblock %}")
        assert "\necho mine\n" in text and "module purge" not in text

    def test_a_step_of_ones_own_name_may_have_its_own(self):
        text = self.rendered("small.sbatch.j2", "#!/bin/bash\necho {{ step | q }}\n",
                             replace(planned(), name="small"))
        assert text == "#!/bin/bash\necho small\n"

    def test_one_that_knows_nothing_of_packed_jobs_is_refused_for_them(self):
        """A copy of an earlier base template would run one task of each job."""
        item = replace(planned(), shards=[{}] * 4, resources=Resources(1, 100, 0, 5, pack=2))
        with pytest.raises(InputError, match="does not run several tasks in one job") as error:
            self.rendered("train.sbatch.j2", "#!/bin/bash\n{{ command }}\n", item)
        assert str(error.value.where).endswith("templates/train.sbatch.j2")
        assert error.value.hint == ("Extend default/base.sbatch.j2, or set pack: 1 for "
                                    f"{item.name}.")
        text = self.rendered("train.sbatch.j2", '{% extends "default/base.sbatch.j2" %}\n', item)
        assert "L3HPC_PACK" in text

    @pytest.mark.parametrize("lines", [
        "", "#SBATCH --array=0-2", "#SBATCH --array=0-3\n#SBATCH -a 0,1",
        "true\n#SBATCH --array=0-3", "##SBATCH --array=0-3", " #SBATCH --array=0-3",
        "#SBATCH --comment='--array=0-3'", "#SBATCH --mem=1 # --array=0-3", "#SBATCH --account=a"])
    def test_directives_that_run_other_tasks_are_refused(self, lines):
        """Before any job is submitted: some tasks would never run, or all run the first one."""
        item = replace(planned(), shards=[{}] * 4)
        with pytest.raises(InputError, match="; the tasks of train need --array=0-3") as error:
            self.rendered("train.sbatch.j2", f"#!/bin/bash\n{lines}\n{{{{ command }}}}\n", item)
        assert str(error.value.where).endswith("templates/train.sbatch.j2")
        assert "{{ super() }}" in error.value.hint

    @pytest.mark.parametrize("lines", [
        "#SBATCH --array=0-3", "#SBATCH --array 0-3%2", "#SBATCH -a 0-3", "#SBATCH -a0-3",
        "#SBATCH --mem=1G --arr='0-3'", "\n# first\n\n#SBATCH --array=0-3", "#SBATCH\t-a 0-3 # all",
        "#SBATCH --array=7\n#SBATCH --array=0-3"])
    def test_directives_of_ones_own_may_run_the_tasks_as_sbatch_reads_them(self, lines):
        item = replace(planned(), shards=[{}] * 4)
        assert lines in self.rendered("train.sbatch.j2", f"#!/bin/bash\n{lines}\ntrue\n", item)

    def test_an_array_for_a_single_task_is_refused(self):
        with pytest.raises(InputError, match="the script has --array=0-1; train has a single task"):
            self.rendered("train.sbatch.j2", "#!/bin/bash\n#SBATCH --array=0-1\n{{ command }}\n")

    def test_a_directive_with_an_open_quote_is_refused(self):
        with pytest.raises(InputError, match="is not closed: #SBATCH --comment='-a") as error:
            self.rendered("train.sbatch.j2", "#!/bin/bash\n#SBATCH --comment='-a\n")
        assert str(error.value.where).endswith("templates/train.sbatch.j2")

    def test_unquoted_text_is_refused(self):
        with pytest.raises(InputError, match="without quoting it") as error:
            self.rendered("train.sbatch.j2", "echo {{ env.GREETING }}\n")
        assert "| q" in error.value.hint
        assert error.value.where.endswith("templates/train.sbatch.j2:1")
        assert self.rendered("train.sbatch.j2", "echo {{ env.GREETING | q }}\n") == \
            "echo 'it'\"'\"'s $(date) `id`'\n"

    def test_an_unknown_name_is_refused_with_the_valid(self):
        with pytest.raises(InputError, match="'nodez' is undefined") as error:
            self.rendered("train.sbatch.j2", "#!/bin/bash\necho {{ nodez }}\n")
        assert "workspace" in error.value.allowed
        assert error.value.where.endswith("train.sbatch.j2:2")

    def test_a_fault_names_file_and_line(self):
        with pytest.raises(InputError) as error:
            self.rendered("train.sbatch.j2", "#!/bin/bash\n{% if %}\n")
        assert error.value.where.endswith("train.sbatch.j2:2")

    @pytest.mark.parametrize(("text", "said"), [
        ("{{ offset / 0 }}", "division by zero"), ("{{ offset + step }}", "unsupported operand"),
        ("{{ env['a']['b'] }}", "has no attribute 'a'"),
        ("{{ step | round }}", "type str doesn't define __round__"),
        ("{% include step %}", "there is no template 'train'"),
        ("{{ step | nosuch }}", "No filter named 'nosuch'"),
    ])
    def test_whatever_fails_in_it_is_a_fault_of_the_file(self, text, said):
        with pytest.raises(InputError, match=re.escape(said)) as error:
            self.rendered("train.sbatch.j2", f"#!/bin/bash\n{text}\n")
        assert "train" in str(error.value.where) or "templates" in str(error.value.where)

    @pytest.mark.parametrize("text", [
        "{{ cycler.__init__.__globals__.os.system('touch FILE') }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ self.__init__.__globals__['__builtins__']['open']('FILE', 'w') }}",
        "{{ ('{0.__class__}' | string).format(step) }}",
        "{{ steps | attr('__class__') }}",
        "{% for number in range(10 ** 9) %}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ])
    def test_to_look_at_a_template_of_somebody_else_runs_none_of_its_code(self, tmp_path, text):
        file = tmp_path / "written"
        with pytest.raises(InputError, match="template: "):
            self.rendered("train.sbatch.j2", f"echo {text.replace('FILE', str(file))}\n")
        assert not file.exists()

    @pytest.mark.parametrize(("text", "said"), [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
         "computes for more than 0.1 seconds"),
        ("{% macro f(n) %}{% if n %}{{ f(n - 1) ~ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
         "computes for more than 0.1 seconds"),
        ("{{ range(99999) | map('string') | batch(2) | map('join') | list | length }}\n" * 99,
         "computes for more than 0.1 seconds"),
        ("{% for a in range(9999) %}{{ 999 * 'x' }}{% endfor %}", "more than 4,000,000 characters"),
        ("{{ 9 ** (9 ** 9) }}", "the template computes 9 ** 387420489"),
        ("{{ 'x' * 10 ** 15 }}", "template: not enough memory"),
    ])
    def test_one_that_would_not_end_is_ended(self, monkeypatch, text, said):
        monkeypatch.setattr(templates, "MAX_SECONDS", 0.1)
        before = signal.getsignal(signal.SIGVTALRM)
        with pytest.raises(InputError, match=re.escape(said)) as error:
            self.rendered("train.sbatch.j2", f"#!/bin/bash\n{text}\n")
        assert "train.sbatch.j2" in error.value.where
        assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
        assert signal.getsignal(signal.SIGVTALRM) == before

    def test_only_what_the_template_computes_counts(self, monkeypatch):
        """The timer of the process also runs while other threads compute."""
        with templates._limited_time():
            signal.raise_signal(signal.SIGVTALRM)
            monkeypatch.setattr(templates, "MAX_SECONDS", -1.0)
            with pytest.raises(InputError, match="the template computes for more than"):
                signal.raise_signal(signal.SIGVTALRM)

    def test_in_another_thread_templates_are_rendered_without_a_limit(self):
        with ThreadPoolExecutor() as pool:
            assert pool.submit(self.rendered, "train.sbatch.j2", "#!/bin/bash\n").result() \
                == "#!/bin/bash\n"

    def test_a_file_that_is_not_utf8_is_a_fault_of_the_file(self):
        Path("templates").mkdir()
        Path("templates/train.sbatch.j2").write_bytes(b"#!/bin/bash\n# caf\xe9\n")
        with pytest.raises(InputError, match="template: .*utf-8"):
            scripts.render(plan(planned()), planned())

    def test_a_missing_parent_is_named(self):
        with pytest.raises(InputError, match="there is no template 'bas.sbatch.j2'"):
            self.rendered("train.sbatch.j2", '{% extends "bas.sbatch.j2" %}')
