"""prune and sensitivity: a smaller teacher, and the effect of pruning layer by layer.

``prune`` removes convolutions, filters and weights: one network and one task per plan, with depth
and width reduced before the plan is applied. ``sensitivity`` prunes one convolution at a time and
measures the effect on the embedding: one task per layer and sparsity, or ``points_per_task`` of
these combinations.

First comes how a compressed network is evaluated, which the step ``compare`` shares. With a
correspondence network (``avc``) and pairs (``scenes``) it is the accuracy of audio-visual
correspondence, as published; otherwise the distance of the embeddings to those of the unpruned
teacher. The output always names the measure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from l3hpc.compression import plans
from l3hpc.errors import InputError, command_line, option, setting
from l3hpc.io.values import count_of
from l3hpc.steps.base import Params, PlanParams, Results, Shard, Step, Upstream
from l3hpc.steps.networks import AVC_OF_RUN, NETWORK_OF_RUN, PAIRS_OF_RUN, label_of
from l3hpc.steps.params import MOST
from l3hpc.steps.task import Task

if TYPE_CHECKING:
    from l3hpc.models.spec import NetworkSpec

EMBEDDING, CORRESPONDENCE = "embedding", "correspondence"
MEASURE_TEXT = {
    EMBEDDING: "distance of embeddings to the unpruned teacher's, on the same windows",
    CORRESPONDENCE: "accuracy of audio-visual correspondence (0.5 is chance)",
}
NOT_IN_FINGERPRINT = frozenset({"audio", "weights", "avc", "scenes", "engine"})
RECORDINGS = 64
NETWORK, METADATA, SCAN = "network.h5", "prune.json", "sensitivity.json"
JUDGED_BY = {"weights": NETWORK_OF_RUN, "avc": AVC_OF_RUN, "scenes": PAIRS_OF_RUN}


class JudgeParams(Params):
    """The teacher, and what its compressed versions are evaluated on."""

    weights: str = Field("untrained", description=(
        "Teacher: a weight file (openl3, edgel3, Keras or l3hpc), or 'untrained' / "
        "'untrained:SEED' for random weights (demonstration only)."))
    audio: Path = Field(description=(
        "Folder of recordings on which the embeddings are compared with the teacher's."))
    windows: int = Field(256, ge=1, le=MOST, description="Number of one-second windows to compare.")
    avc: Path | None = Field(None, description=(
        "Correspondence network (avc_best_valid_loss.h5 of avc_train) whose audio branch is the "
        "teacher: evaluate by its accuracy."))
    scenes: Path | None = Field(None, description=(
        "Folder of pairs for the evaluation, such as the artifact of avc_pairs (needs avc)."))
    split: Literal["train", "validate", "test"] = Field("validate", description=(
        "Split of the batches to use."))
    pairs: int = Field(1024, ge=1, le=MOST, description=(
        "Number of pairs, spread evenly over the batches."))
    engine: Literal["auto", "tensorflow", "ncnn"] = Field("auto", description=(
        "Inference engine; auto: the fastest of those installed, measured once."))

    @property
    def kind(self) -> str:
        """``correspondence`` or ``embedding``."""
        return CORRESPONDENCE if self.avc is not None else EMBEDDING


def check(own: JudgeParams, step: str) -> None:
    """Refuse one of avc and scenes without the other, and files that do not exist."""
    check_scenes(own.avc, own.scenes, step, (own.split,))
    spec = l3_spec(own.weights, step)
    if own.avc is not None:
        check_branch(spec, own.avc)


def l3_spec(weights: str, step: str) -> NetworkSpec:
    """The network of a teacher; an ``InputError`` if it is not of the L3 family."""
    from l3hpc.teachers.find import describe

    known = describe(weights)
    if known.spec is None:
        raise InputError(f"{known.label} cannot be pruned", where=f"{step}.weights",
                         allowed="weights of the L3 family: openl3, edgel3, or trained by l3hpc")
    return known.spec


def check_scenes(avc: Path | None, scenes: Path | None, step: str, splits: Iterable[str]) -> None:
    """Refuse one of avc and scenes without the other, and what does not exist or fit.

    Parameters
    ----------
    avc
        File of a correspondence network.
    scenes
        Folder of pairs.
    step
        Name of the step, for the message.
    splits
        Those that the step reads.

    Raises
    ------
    InputError
        With the parameter to change.
    """
    if (avc is None) != (scenes is None):
        missing = "avc" if avc is None else "scenes"
        raise InputError("correspondence needs both a network and pairs",
                         where=f"{step}.{missing}",
                         hint=f"{option('avc', 'FILE')} {option('scenes', 'FOLDER')}")
    if avc is None or scenes is None:
        return
    if not avc.is_file():
        raise InputError(f"no such file {avc}", where=f"{step}.avc",
                         allowed="avc_best_valid_loss.h5 of avc_train",
                         hint=command_line("submit", "avc") + " writes it; in the folder of its "
                              "run it is artifacts/avc_train/0000/avc_best_valid_loss.h5")
    from l3hpc.avc.batches import Batches, batch_files
    from l3hpc.avc.distillation import describe_avc

    files = [path for split in splits for path in batch_files(scenes, split)]
    takes, has = describe_avc(avc)[1].size, Batches(files[:1]).size
    if takes != has:
        raise InputError(f"the images have {has} × {has} pixels", where=f"{step}.scenes",
                         allowed=f"{takes} × {takes}, as {avc.name} takes them",
                         hint="use the pairs on which it was trained")


def check_branch(spec: Any, avc: Path) -> None:
    """Refuse a network that cannot replace the audio branch of a correspondence network.

    Parameters
    ----------
    spec
        The ``NetworkSpec`` of the network.
    avc
        File of the correspondence network.

    Raises
    ------
    InputError
        With the differences.
    """
    from l3hpc.avc.distillation import describe_avc

    branch, _ = describe_avc(avc)
    if spec.frontend != branch.frontend or (spec.tail, spec.head) not in (
            (branch.tail, branch.head), ("embedding", spec.head)):
        raise InputError(
            f"the network ({spec.rate} Hz, {spec.n_mels} mels, '{spec.tail}' with {spec.head}) "
            f"cannot replace the audio branch of {avc.name} ({branch.rate} Hz, "
            f"{branch.n_mels} mels, '{branch.tail}' with {branch.head})", where=str(avc),
            hint="use the teacher that was trained with it: "
                 f"{option('weights', 'teacher.h5')} of avc_train")


def digests(own: JudgeParams) -> dict[str, Any]:
    """Teacher and correspondence network by their bytes, audio and scenes by their listings."""
    from l3hpc.datasets.corpus import manifest_digest, scan_recordings
    from l3hpc.teachers.find import fingerprint

    return {"weights": fingerprint(own.weights),
            "audio": manifest_digest(scan_recordings(own.audio)),
            **scene_digests(own.avc, own.scenes)}


def scene_digests(avc: Path | None, scenes: Path | None) -> dict[str, Any]:
    """The correspondence network by its bytes, the batches by names, sizes and times."""
    from l3hpc.io.files import digest, digest_file

    listing = [[path.relative_to(scenes).as_posix(), path.stat().st_size, path.stat().st_mtime_ns]
               for path in sorted(scenes.rglob("*.h5"))] if scenes is not None else None
    return {"avc": digest_file(avc) if avc is not None else None,
            "scenes": digest(listing) if listing is not None else None}


def fidelity(own: JudgeParams, teacher: Any, task: Task) -> Any:
    """Return a ``Fidelity`` on windows that are spread over the folder of audio.

    Parameters
    ----------
    own
        The parameters of the step: folder, number of windows, engine.
    teacher
        The network whose embeddings are the reference.
    task
        The running task, for its number of threads and its progress.

    Raises
    ------
    InputError
        No recording has a second of audio.
    """
    from l3hpc.compression.fidelity import Fidelity
    from l3hpc.datasets.corpus import scan_recordings
    from l3hpc.datasets.windows import evenly_spaced, sample_windows

    recordings = evenly_spaced(scan_recordings(own.audio), RECORDINGS)
    frames = sample_windows(own.audio, recordings, teacher.spec.rate, 0.5, True, own.windows,
                            window_s=teacher.spec.window_s)
    if not len(frames):
        raise InputError("no recording of at least one second can be read", where=str(own.audio),
                         hint=f"check the folder: {command_line('data', 'check', 'FOLDER')}")
    frames = frames[:own.windows]
    embedding = f"embedding {count_of(len(frames), 'window')} with the teacher"
    with task.progress.doing(embedding, at_once=True):
        return Fidelity(teacher, frames, threads=task.threads, engine=own.engine)


def correspondence(own: JudgeParams, teacher: Any, task: Task) -> Any:
    """Return a ``Correspondence`` with the head that the network was trained with.

    Parameters
    ----------
    own
        The parameters of the step: the audio-visual network and the pairs.
    teacher
        The audio branch that is compressed.
    task
        The running task, for its scratch folder and threads.
    """
    from l3hpc.avc.batches import Batches
    from l3hpc.avc.network import load_avc
    from l3hpc.compression.correspondence import (
        Correspondence,
        Head,
        embed_images,
        evenly_spaced_rows,
    )
    from l3hpc.io.files import digest_file

    assert own.avc is not None and own.scenes is not None
    network = load_avc(own.avc)
    batches = Batches.find(own.scenes, own.split)
    pairs = embed_images(network, batches, evenly_spaced_rows(batches, own.pairs),
                         teacher.spec.frontend, task.scratch / "seen",
                         settings=digest_file(own.avc), progress=task.progress)
    return Correspondence(pairs, Head(network.head), network.parameters(), task.threads, own.engine)


def judge_of(own: JudgeParams, teacher: Any, task: Task) -> Callable[[Any], dict[str, Any]]:
    """Return the function that scores a network, by the measure that ``own.kind`` names.

    Parameters
    ----------
    own
        The parameters of the step.
    teacher
        The network that is compressed.
    task
        The running task.
    """
    made = correspondence if own.kind == CORRESPONDENCE else fidelity
    found: Callable[[Any], dict[str, Any]] = made(own, teacher, task).of
    return found


def _split(value: Any) -> Any:
    return plans.split_plans(value) if isinstance(value, str) else value


class PruneParams(Params):
    """What is removed, and how."""

    weights: str = Field("untrained", description=(
        "Teacher: a weight file (openl3, edgel3, Keras or l3hpc), or 'untrained' / "
        "'untrained:SEED' for random weights (demonstration only)."))
    plans: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        ("edgel3",), min_length=1, description=(
            "Pruning plans, separated by spaces, one network each: a published one (53.49 … 99.00; "
            "edgel3 is 95.45), none, or a percentage per convolution, separated by commas."))
    depth: int = Field(8, ge=5, le=8, description=(
        "Convolutions to keep (8: all); the embedding is the output of the last."))
    filters: tuple[int, ...] | None = Field(None, description=(
        "Filters to keep in each convolution, those with the largest sum of |W| (none: all)."))
    norms: Literal["kept", "fresh"] = Field("kept", description=(
        "Batch normalisation after removing filters: kept, or initialised again (published)."))
    rank: Literal["linear", "nearest"] = Field("linear", description=(
        "Percentile for the threshold: linear interpolation, or the nearest weight (published)."
    ))


class Prune(Step[PruneParams]):
    """A smaller teacher, with fewer convolutions, filters or weights."""

    name = "prune"
    version = 1
    title = "the teacher with fewer weights, filters or layers"
    params_type = PruneParams
    not_in_fingerprint = frozenset({"weights"})
    run_files = {"weights": NETWORK_OF_RUN}

    def check(self, params: PruneParams, plan: PlanParams) -> None:
        """Refuse plans, depths and widths that do not fit the teacher."""
        spec_after(params)

    def describe(self, params: PruneParams, plan: PlanParams) -> str:
        """``8 convolutions, 512-d; parameters left by the published count: 213,491 (plan 95.45)``.
        """
        from l3hpc.compression.sizes import published_size

        spec = spec_after(params)
        left = [f"{published_size(plans.parse_plan(one, params.depth), spec).remaining:,.0f} "
                f"(plan {plans.plan_title(one, params.depth)})" for one in params.plans]
        return (f"{count_of(params.depth, 'convolution')}, {spec.dim}-d; parameters left by "
                f"the published count: {', '.join(left)}")

    def shards(self, params: PruneParams, upstream: Upstream) -> list[Shard]:
        """One task per plan."""
        return [{"plan": plan} for plan in params.plans]

    def digests(self, params: PruneParams) -> dict[str, Any]:
        """The teacher by its bytes."""
        from l3hpc.teachers.find import fingerprint

        return {"weights": fingerprint(params.weights)}

    def run(self, params: PruneParams, task: Task) -> dict[str, Any]:
        """Reduce and prune; write ``network.h5`` and its description, ``prune.json``."""
        from dataclasses import asdict

        from l3hpc.compression import pruning, sizes
        from l3hpc.io.files import write_json
        from l3hpc.models.weights import identity, load_parameters, random_weights_note, save

        whole, info = load_parameters(params.weights)
        known = identity(params.weights)
        text = str(task.shard["plan"])
        plan = plans.parse_plan(text, params.depth)
        # depth and width first: the percentages of the plan apply to what is left
        network = pruning.reduce_depth(whole, params.depth)
        if params.filters is not None:
            network = pruning.reduce_width(network, params.filters, params.norms)
        network = pruning.prune(network, plan, params.rank)
        title = plans.plan_title(text, params.depth)
        metadata: dict[str, Any] = {
            "plan": title, "percent": list(plan), "achieved": pruning.zero_percent(network),
            "depth": params.depth, "filters": list(network.spec.filters), "norms": params.norms,
            "rank": params.rank, "dim": network.spec.dim, "spec": network.spec.to_dict(),
            "published": asdict(sizes.published_size(plan, network.spec, whole.spec)),
            "sizes": sizes.measure_sizes(network).as_json(), "layers": sizes.layer_counts(network),
            "teacher": known, "note": random_weights_note(known),
        }
        save(network, task.output / NETWORK,
             {"teacher": known, "plan": title, "made_by": self.name})
        write_json(task.output / METADATA, metadata)
        task.progress.note(f"{title}: {metadata['sizes']['non_zero']:,} of "
                           f"{metadata['sizes']['kernel_weights']:,} weights are left, "
                           f"of {info.label}")
        return {**metadata, "network": NETWORK}

    def summary(self, results: Results) -> str:
        """``95.45: 213,284 of 4,682,304 weights``."""
        return "; ".join(f"{one['plan']}: {one['sizes']['non_zero']:,} of "
                         f"{one['sizes']['kernel_weights']:,} weights" for one in results)


def spec_after(own: PruneParams) -> Any:
    """The ``NetworkSpec`` of the networks that come out; ``InputError`` where none can."""
    from dataclasses import replace

    spec = l3_spec(own.weights, "prune")
    if own.depth > len(spec.filters):
        raise InputError(f"the teacher has {len(spec.filters)} convolutions", where="prune.depth",
                         allowed=f"at most {len(spec.filters)}")
    filters = spec.filters[:own.depth]
    if own.filters is not None:
        if len(own.filters) != own.depth:
            raise InputError(f"{len(own.filters)} filter counts for {own.depth} convolutions",
                             where="prune.filters", allowed="one number per convolution")
        for name, wanted, there in zip(plans.layer_names(own.depth), own.filters, filters,
                                       strict=True):
            if not 1 <= wanted <= there:
                raise InputError(f"{wanted} filters of {there} in {name}", where="prune.filters",
                                 allowed=f"1 to {there}")
        filters = own.filters
    for plan in own.plans:
        try:
            plans.parse_plan(plan, own.depth)
        except InputError as error:
            where = f" ({error.where})" if error.where else ""
            raise error.replaced(where=setting("prune.plans") + where) from None
    if filters == spec.filters:
        return spec
    return replace(spec, filters=tuple(filters), emb_dim=filters[-1])


def parts(upstream: Upstream) -> list[Shard]:
    """Shards of a step that reads the networks of prune: one per network; one for a file."""
    return [{"part": number, "plan": one.get("plan")}
            for number, one in enumerate(upstream.get("prune") or [])] or [{"part": None}]


def network_file(folder: Path, part: int | None) -> Path:
    """The network of one task of prune, or of a folder that holds one (or the file itself)."""
    folder = Path(folder)
    places = [folder / f"{part or 0:04d}" / NETWORK, folder / NETWORK, folder]
    for path in places:
        if path.is_file():
            return path
    raise InputError(f"contains no {NETWORK}", where=str(folder), hint="The step prune writes it.")


class SensitivityParams(JudgeParams):
    """By how much each layer is pruned, and how the network is evaluated."""

    sparsities: tuple[Annotated[float, Field(gt=0, lt=100)], ...] = Field(
        (70.0, 80.0, 85.0, 90.0, 95.0), min_length=1, description=(
            "Percentages of a layer's weights to prune; default: those of the published scan."))
    points_per_task: int = Field(1, ge=1, le=MOST, description=(
        "Points (combinations of layer and sparsity) per array task."))


class Sensitivity(Step[SensitivityParams]):
    """The effect of pruning one convolution at a time."""

    name = "sensitivity"
    version = 1
    title = "the effect of pruning one convolution at a time"
    params_type = SensitivityParams
    not_in_fingerprint = NOT_IN_FINGERPRINT
    run_files = JUDGED_BY

    def check(self, params: SensitivityParams, plan: PlanParams) -> None:
        """Refuse an incomplete evaluation."""
        check(params, self.name)

    def describe(self, params: SensitivityParams, plan: PlanParams) -> str:
        """``8 layers × 5 sparsities, evaluated by …``."""
        from l3hpc.models.weights import describe_weights

        layers = len(describe_weights(params.weights).spec.filters)
        return (f"{count_of(layers, 'layer')} × {len(params.sparsities)} sparsities, evaluated by "
                f"{MEASURE_TEXT[params.kind]}")

    def shards(self, params: SensitivityParams, upstream: Upstream) -> list[Shard]:
        """Layer by layer, ``points_per_task`` points in a task."""
        from l3hpc.compression.fidelity import scan_points
        from l3hpc.models.weights import describe_weights

        every = scan_points(len(describe_weights(params.weights).spec.filters), params.sparsities)
        size = params.points_per_task
        return [{"points": [[one.layer, one.sparsity] for one in every[first:first + size]]}
                for first in range(0, len(every), size)]

    def digests(self, params: SensitivityParams) -> dict[str, Any]:
        """Files by their bytes, folders by their listings."""
        return digests(params)

    def run(self, params: SensitivityParams, task: Task) -> dict[str, Any]:
        """Evaluate this task's points; write them into ``sensitivity.json``."""
        from l3hpc.compression.fidelity import ScanPoint, scan_layers
        from l3hpc.io.files import write_json
        from l3hpc.models.weights import identity, load_parameters, random_weights_note

        teacher, _ = load_parameters(params.weights)
        known = identity(params.weights)
        points = [ScanPoint(int(layer), float(sparsity))
                  for layer, sparsity in task.shard["points"]]
        judge = judge_of(params, teacher, task)
        task.progress.start("pruning one layer at a time", total=len(points) + 1, unit="networks")
        whole = judge(teacher)
        task.progress.advance(1)
        rows = []
        for row in scan_layers(teacher, points, judge):
            rows.append(row)
            task.progress.advance(1, layer=row["name"], sparsity=row["sparsity"])
        metadata = {"judge": params.kind, "words": MEASURE_TEXT[params.kind], "teacher": known,
                    "note": random_weights_note(known), "unpruned": whole, "points": rows}
        write_json(task.output / SCAN, metadata)
        return {"judge": params.kind, "points": rows, "unpruned": whole, **label_of(known)}

    def summary(self, results: Results) -> str:
        """``40 points; most sensitive: conv_4 at 95% (cosine 0.7312)``."""
        rows = [row for result in results for row in result.get("points", [])]
        if not rows:
            return ""
        measure = "accuracy" if "accuracy" in rows[0] else "cosine"
        worst = min(rows, key=lambda row: row[measure])
        return (f"{count_of(len(rows), 'point')}; most sensitive: {worst['name']} at "
                f"{worst['sparsity']:g}% ({measure} {worst[measure]:.4f})")
