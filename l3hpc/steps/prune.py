"""prune: the teacher made smaller, by fewer convolutions, fewer filters and fewer weights.

One network per plan, each a task of its own; cuts in depth and width come before the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from l3hpc.compression import plans as plan_names
from l3hpc.errors import InputError
from l3hpc.steps.base import Params as BaseParams
from l3hpc.steps.base import Task

NAME = "prune"
VERSION = 1
TITLE = "the teacher with fewer weights, filters or layers"
INPUTS: dict[str, str] = {}
PLACES = frozenset({"weights"})
NETWORK, TOLD = "network.h5", "prune.json"


def _split(value: Any) -> Any:
    return plan_names.split(value) if isinstance(value, str) else value


class Params(BaseParams):
    """What is cut away, and how."""

    weights: str = Field("untrained", description=(
        "Teacher: a weight file (openl3, edgel3, Keras or l3hpc), or 'untrained' / "
        "'untrained:SEED' for random weights (demonstration only)."))
    plans: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        ("edgel3",), min_length=1, description=(
            "Pruning plans, one network each: names of the published ones (53.49 … 99.00; edgel3 "
            "is 95.45), none, or percent per convolution with commas; blanks between plans."))
    depth: int = Field(8, ge=5, le=8, description=(
        "Convolutions to keep; the embedding comes from the last of them (8: all)."))
    filters: tuple[int, ...] | None = Field(None, description=(
        "Filters to keep of each convolution, those with the largest sum of |W| (none: all)."))
    norms: Literal["kept", "fresh"] = Field("kept", description=(
        "Normalisations after a cut in width: kept with their filters, or fresh (published)."))
    rank: Literal["linear", "nearest"] = Field("linear", description=(
        "Percentile of a threshold: linear interpolation, or the nearest weight (published masks)."
    ))


def check(params: Mapping[str, BaseModel]) -> None:
    """Refuse plans, depths and widths that this teacher cannot have."""
    own = params.get(NAME)
    if isinstance(own, Params):
        spec_after(own)


def spec_after(own: Params) -> Any:
    """The ``NetworkSpec`` of the networks that come out; ``InputError`` where none can."""
    from dataclasses import replace

    from l3hpc.models.weights import describe as describe_weights

    spec = describe_weights(own.weights).spec
    if own.depth > len(spec.filters):
        raise InputError(f"the teacher has {len(spec.filters)} convolutions", where="prune.depth",
                         allowed=f"at most {len(spec.filters)}")
    filters = spec.filters[:own.depth]
    if own.filters is not None:
        if len(own.filters) != own.depth:
            raise InputError(f"{len(own.filters)} filter counts for {own.depth} convolutions",
                             where="prune.filters", allowed="one number per convolution")
        for name, wanted, there in zip(plan_names.layer_names(own.depth), own.filters, filters,
                                       strict=True):
            if not 1 <= wanted <= there:
                raise InputError(f"{wanted} filters of {there} in {name}", where="prune.filters",
                                 allowed=f"1 to {there}")
        filters = own.filters
    for plan in own.plans:
        try:
            plan_names.parse(plan, own.depth)
        except InputError as error:
            raise InputError(error.message, where=f"prune.plans ({error.where})"
                             if error.where else "prune.plans", allowed=error.allowed,
                             hint=error.hint) from None
    if filters == spec.filters:
        return spec
    return replace(spec, filters=tuple(filters), emb_dim=filters[-1])


def describe(params: Mapping[str, BaseModel]) -> str:
    """``plans 95.45, 8 convolutions, 213,491 parameters by the published count``."""
    from l3hpc.compression.sizes import published

    own = params[NAME]
    assert isinstance(own, Params)
    spec = spec_after(own)
    left = [f"{plan_names.title(plan, own.depth)}: "
            f"{published(plan_names.parse(plan, own.depth), spec).remaining:,.0f}"
            for plan in own.plans]
    return (f"{own.depth} convolutions, {spec.dim}-d; parameters left by the published count: "
            + "; ".join(left))


def shards(params: BaseModel, upstream: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """One task per plan."""
    assert isinstance(params, Params)
    return [{"plan": plan} for plan in params.plans]


def digests(params: BaseModel) -> dict[str, Any]:
    """The teacher by its bytes."""
    from l3hpc.steps.extract import weights_digest

    assert isinstance(params, Params)
    return {"weights": weights_digest(params.weights)}


def run(params: BaseModel, task: Task) -> dict[str, Any]:
    """Cut and prune; write ``network.h5`` and what there is to say of it into ``prune.json``."""
    from dataclasses import asdict

    from l3hpc.compression import pruning, reduction, sizes
    from l3hpc.io.files import write_json
    from l3hpc.models.weights import caution, identity, load_parameters, save

    assert isinstance(params, Params)
    whole, info = load_parameters(params.weights)
    known = identity(params.weights)
    text = str(task.shard["plan"])
    plan = plan_names.parse(text, params.depth)
    network = reduction.depth(whole, params.depth)
    if params.filters is not None:
        network = reduction.width(network, params.filters, params.norms)
    network = pruning.prune(network, plan, params.rank)
    title = plan_names.title(text, params.depth)
    told: dict[str, Any] = {
        "plan": title, "percent": list(plan), "achieved": pruning.achieved(network),
        "depth": params.depth, "filters": list(network.spec.filters), "norms": params.norms,
        "rank": params.rank, "dim": network.spec.dim, "spec": network.spec.to_dict(),
        "published": asdict(sizes.published(plan, network.spec, whole.spec)),
        "sizes": sizes.weigh(network).as_json(), "layers": sizes.per_layer(network),
        "teacher": known, "note": caution(known),
    }
    save(network, task.output / NETWORK, {"teacher": known, "plan": title, "made_by": NAME})
    write_json(task.output / TOLD, told)
    task.progress.note(f"{title}: {told['sizes']['non_zero']:,} of "
                       f"{told['sizes']['kernel_weights']:,} weights are left, of {info.label}")
    return {**told, "network": NETWORK}


def parts(upstream: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict]:
    """Tasks of a step that goes on from prune: one per network; one for a folder or file."""
    return [{"part": number, "plan": one.get("plan")}
            for number, one in enumerate(upstream.get(NAME) or [])] or [{"part": None}]


def network_file(folder: Path, part: int | None) -> Path:
    """The network of one task of prune, or of a folder that holds one (or the file itself)."""
    folder = Path(folder)
    places = [folder / f"{part or 0:04d}" / NETWORK, folder / NETWORK, folder]
    for path in places:
        if path.is_file():
            return path
    raise InputError(f"holds no {NETWORK}", where=str(folder), hint="The step prune writes one.")


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """``95.45: 213,284 of 4,682,304 weights``."""
    return "; ".join(f"{one['plan']}: {one['sizes']['non_zero']:,} of "
                     f"{one['sizes']['kernel_weights']:,} weights" for one in results)
