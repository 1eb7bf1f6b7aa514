"""--teacher and --phi: what is planned, and what is refused before anything is submitted."""

import json
from pathlib import Path

import numpy as np
import pytest

from l3hpc import steps
from l3hpc.errors import InputError
from l3hpc.models.weights import identity
from l3hpc.pipelines import plan, preview, sweep
from l3hpc.reduction.header import PhiDescription
from l3hpc.reduction.phi import Phi, save_phi

from .test_plan import (  # noqa: F401
    DATE,
    _corpus,
    build,
    configuration,
    finish,
    prints,
    record,
    step,
)

DIM = 512  # of the untrained teacher


@pytest.fixture
def ust(monkeypatch):
    """A configuration with SONYC-UST, of which only the labels are looked at."""
    for kind in ("embed", "classify", "evaluate"):
        module = steps.step(kind)
        monkeypatch.setattr(module, "shards", lambda params, upstream: [{}])
    for kind in ("embed", "evaluate"):
        monkeypatch.setattr(steps.step(kind), "check", lambda params, plan: None)
    for kind in ("embed", "evaluate"):
        monkeypatch.setattr(steps.step(kind), "digests", lambda params: {})
    monkeypatch.setattr("l3hpc.steps.classify.label_files",
                        lambda params, step: (Path(__file__), Path(__file__)))
    return configuration(sonyc_ust="ust")


def phi_of(path, weights="untrained", dim=DIM, out_dim=4, seed=0):
    """A file of φ with random numbers."""
    rng = np.random.default_rng(seed)
    arrays = {"mean": rng.normal(size=dim), "scale": np.ones(dim),
              "components": rng.normal(size=(out_dim, dim)),
              "explained_variance": np.ones(out_dim),
              "explained_variance_ratio": np.full(out_dim, 0.1)}
    phi = Phi("pca", dim, out_dim, "f", identity(weights), 100, {"kernel": "linear"}, arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_phi(path, phi)
    return phi


def test_the_teacher_of_the_configuration_takes_the_place_of_a_student(ust):
    made = build("downstream", ust, teacher=True)
    assert step(made, "embed").params["student"] == "untrained"
    assert step(made, "embed").inputs == {}
    assert step(made, "evaluate").params["bound"] is True
    assert made.options == {"teacher": True}
    assert "embed: teacher untrained" in preview.as_text(made)
    with pytest.raises(InputError, match="--teacher and --student are both given"):
        build("downstream", ust, teacher=True, student="latest")
    with pytest.raises(InputError, match="paths.weights is not set") as caught:
        build("downstream", configuration(weights=None, sonyc_ust="ust"), teacher=True)
    assert "--weights PATH" in str(caught.value)
    with pytest.raises(InputError, match="--teacher has no effect"):
        build("upstream", ust, teacher=True)


def test_the_bound_shares_embeddings_with_every_reduction_of_them(ust):
    first, second = phi_of(Path("a.h5")), phi_of(Path("b.h5"), seed=1)
    raw = prints(build("downstream", ust, teacher=True))
    reduced = prints(build("downstream", ust, teacher=True, options={"phi": "a.h5"}))
    other = prints(build("downstream", ust, teacher=True, options={"phi": "b.h5"}))
    assert first.digest != second.digest
    assert raw["embed"] == reduced["embed"] == other["embed"]
    assert len({raw["classify"], reduced["classify"], other["classify"]}) == 3
    Path("moved").mkdir()
    Path("a.h5").rename("moved/phi.h5")
    assert prints(build("downstream", ust, teacher=True, options={"phi": "moved"})) == reduced
    both = sweep.build("downstream", ust, plan.Request(teacher=True),
                       {"phi": ["moved", "b.h5"]}, date=DATE, user="you").plan
    assert [item.name for item in both.steps][:1] == ["embed"] and len(both.steps) == 5


def test_phi_by_the_run_that_fitted_it(ust):
    made = build()
    record(made)
    with pytest.raises(InputError, match=f"the run '{made.run}' has no finished fit"):
        build("downstream", ust, teacher=True, options={"phi": made.run})
    with pytest.raises(InputError, match="no run in .* has a finished fit"):
        build("downstream", ust, teacher=True, options={"phi": "latest"})
    finish(step(made, "fit"))
    file = step(made, "fit").artifact / "0000/phi.h5"
    phi_of(file)
    begin = made.run[:-2]
    for name in (made.run, begin, f"{begin}/fit", f"{made.run}/fit", "latest", "latest/fit",
                 str(file), str(file.parent)):
        down = build("downstream", ust, teacher=True, options={"phi": name})
        assert step(down, "classify").params["phi"] == str(file)
        assert down.options["phi"] == name
    assert "through pca: 512 → 4" in preview.as_text(down)
    assert PhiDescription("pca", 512, 4, params={"kernel": "rbf"}).method == "kernel PCA (RBF)"
    with pytest.raises(InputError, match="'nothing' is neither a run nor a file") as caught:
        build("downstream", ust, teacher=True, options={"phi": "nothing"})
    assert "--phi" in str(caught.value) and "hear:" not in str(caught.value)


def test_a_student_and_an_input_by_the_beginning_of_their_run(ust):
    made, other = build(), build(options={"epochs": 2}, name="other")
    for plan_ in (made, other):
        finish(step(plan_, "train"))
        record(plan_)
    for request in ({"student": "up"}, {"student": "up/train"}, {"inputs": {"train": "up"}}):
        assert step(build("downstream", ust, **request), "embed").inputs == {
            "train": str(step(made, "train").artifact)}
    record(build(options={"epochs": 3}))
    with pytest.raises(InputError, match="'up' matches 2 runs"):
        build("downstream", ust, student="up")


@pytest.mark.parametrize("finished", [True, False])
def test_more_components_than_the_student_of_an_earlier_run_has_dimensions(ust, finished):
    Path("cluster.yaml").write_text("clusters: {far: {}}\n")
    far = configuration("far", sonyc_ust="ust")
    made = build(settings=configuration("far"), options={"emb-dim": 8})
    record(made)
    if finished:
        finish(step(made, "train"))
    else:  # its job will still make it
        folder = made.folder.step("train").config
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.write_text(json.dumps(step(made, "train").config(made.run)))
    build("downstream", far, student=made.run, options={"pca-components": 8})
    with pytest.raises(InputError) as caught:
        build("downstream", far, student=made.run, options={"pca-components": 9})
    assert str(caught.value) == (
        "--pca-components 9: the embeddings have 8 dimensions.\nUse at most 8.")


def test_parameters_that_this_version_cannot_read_refuse_no_plan(ust):
    made = build()
    record(made)
    finish(step(made, "train"))
    file = step(made, "train").artifact / "config.json"
    frozen = json.loads(file.read_text())
    frozen["params"]["of_another_version"] = 1
    file.write_text(json.dumps(frozen))
    assert step(build("downstream", ust, options={"pca-components": 9}), "embed")


def test_phi_of_anything_but_this_teacher_is_refused(ust):
    phi_of(Path("other.h5"), weights="untrained:7")
    with pytest.raises(InputError, match="was fitted on those of untrained L3 .seed 7") as caught:
        build("downstream", ust, teacher=True, options={"phi": "other.h5"})
    assert "--weights PATH" in str(caught.value)
    phi_of(Path("short.h5"), dim=128)
    with pytest.raises(InputError, match="512 numbers per row, .* fitted on 128"):
        build("downstream", ust, teacher=True, options={"phi": "short.h5"})
    phi_of(Path("own.h5"))
    made = build()
    finish(step(made, "train"))
    record(made)
    with pytest.raises(InputError, match="not those of a student") as caught:
        build("downstream", ust, student=made.run, options={"phi": "own.h5"})
    assert "--teacher" in str(caught.value)
    with pytest.raises(InputError, match="fitted on those of untrained L3"):
        build("downstream", ust, teacher=True, options={"phi": "own.h5"},
              sets=["embed.convention=openl3-0.4-kapre"])


def test_phi_is_held_to_embeddings_from_elsewhere_too(ust):
    phi_of(Path("phi.h5"))
    Path("npz").mkdir()
    np.savez("npz/a.npz", embedding=np.zeros((3, 8), np.float32))
    request = {"start": "classify", "inputs": {"embed": "npz"}, "options": {"phi": "phi.h5"}}
    with pytest.raises(InputError, match="8 numbers per row, this pca reduction was fitted on 512"):
        build("downstream", ust, **request)
    np.savez("npz/a.npz", embedding=np.zeros((3, DIM), np.float32))
    made = build("downstream", ust, **request)
    assert json.loads(json.dumps(step(made, "classify").params))["phi"].endswith("phi.h5")


def test_without_the_new_options_nothing_is_named_anew(ust):
    made = build()
    finish(step(made, "train"))
    record(made)
    down = build("downstream", ust)
    assert "phi" not in step(down, "classify").params
    assert "bound" not in step(down, "evaluate").params
    assert set(steps.step("classify").digests(steps.step("classify").params_type())) == {
        "annotations", "taxonomy"}
