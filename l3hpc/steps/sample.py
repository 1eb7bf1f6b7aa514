"""sample: a small, relevant and diverse subset of the teacher's embeddings.

One task per sensor selects rows in one time frame after another.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from l3hpc.io.values import count_of
from l3hpc.steps.base import Input, Output, Params, PlanParams, Results, Shard, Step, Upstream
from l3hpc.steps.params import MAX_DRAW_SEED, MOST
from l3hpc.steps.task import Task

Method = Literal["dpp", "dpp-div", "spl", "random"]


class SampleParams(Params):
    """How rows are selected."""

    method: Method = Field("dpp", description=(
        "dpp: exact k-DPP, diverse and loud; dpp-div: diverse only; spl: by relative loudness; "
        "random: uniform."))
    samples: int = Field(5000, ge=1, le=MOST, description="Rows to select, over all sensors.")
    timescale: Literal["day", "week", "month"] = Field("day", description=(
        "Time frame; the same number of rows is selected from each."))
    timezone: str = Field("America/New_York", description="Time zone of the sensors.")
    epsilon: float = Field(0.001, gt=0, le=1e3, description=(
        "Value added to the diagonal of the DPP kernel; published: 0.1."))
    norm: Literal["l2", "l1"] = Field("l2", description=(
        "Normalisation of the embeddings in the DPP kernel; published: l1."))
    seed: int = Field(20180216, ge=0, le=MAX_DRAW_SEED, description=(
        "Seed; every time frame has its own random stream."))


class Sample(Step[SampleParams]):
    """A small, relevant and diverse subset of the embeddings."""

    name = "sample"
    version = 3
    title = "a relevant and diverse subset of the embeddings"
    params_type = SampleParams
    inputs = {"extract": Input()}
    output = Output.EMBEDDINGS

    def check(self, params: SampleParams, plan: PlanParams) -> None:
        """Refuse an unknown time zone."""
        check_timezone(params.timezone, "sample.timezone")

    def describe(self, params: SampleParams, plan: PlanParams) -> str:
        """``dpp, 5,000 rows, by day, seed 20180216``."""
        return (f"{params.method}, {count_of(params.samples, 'row')}, by {params.timescale}, "
                f"seed {params.seed}")

    def shards(self, params: SampleParams, upstream: Upstream) -> list[Shard]:
        """One task per sensor, with its share of the samples and the tasks that have its rows.

        One task for all where ``extract`` is a folder of published files.
        """
        parts = upstream.get("extract") or []
        sensors = sorted({sensor for part in parts for sensor in part["sensors"]})
        if not sensors:
            return [{"sensor": None, "samples": params.samples, "parts": None}]
        share = -(-params.samples // len(sensors))
        return [{"sensor": sensor, "samples": share,
                 "parts": [number for number, part in enumerate(parts)
                           if sensor in part["sensors"]]}
                for sensor in sensors]

    def run(self, params: SampleParams, task: Task) -> dict[str, Any]:
        """Select rows in every time frame and write them, with provenance, into ``sample.h5``.

        The same number of rows is selected from every frame, rounded up, so that the total is at
        least ``samples``. A smaller frame is used whole, and the others do not compensate for it.
        """
        from l3hpc.datasets.embeddings import open_source
        from l3hpc.sampling.selection import UNDATED
        from l3hpc.sampling.subset import (
            KEPT_BYTES,
            EmbeddingCorpus,
            select_frames,
            write_sample,
        )

        source = open_source(task.inputs["extract"], tasks=task.shard.get("parts"))
        wanted = task.shard.get("sensor")
        # One sensor of several may have no rows: none of its recordings could be used.
        if wanted is None:
            source.refuse_empty()
        corpus = EmbeddingCorpus(source)
        sensors = [wanted] if wanted is not None else corpus.sensors()
        # rounded up: a reduction needs at least the rows that were asked for
        share = -(-int(task.shard.get("samples", params.samples)) // len(sensors))
        # the rows of all sensors are kept until they are written: they share the memory
        choices = []
        for sensor in sensors:
            choices += select_frames(
                corpus, sensor, share, method=params.method, timescale=params.timescale,
                timezone=params.timezone, epsilon=params.epsilon, norm=params.norm,
                seed=params.seed, progress=task.progress,
                keep_bytes=KEPT_BYTES // len(sensors))
        write_sample(task.output / "sample.h5", corpus, choices,
                     {"method": params.method, "timescale": params.timescale,
                      "epsilon": params.epsilon, "norm": params.norm, "seed": params.seed})
        rows = sum(len(choice.rows) for choice in choices)
        if not rows:
            task.progress.note(f"no rows of {wanted}: none of its recordings could be used")
        short = sum(choice.selection.missing > 0 for choice in choices)
        if short:
            task.progress.note(f"{short} of {len(choices)} time frames have fewer rows than "
                               "requested; all of them were selected")
        dated = any(choice.frame != UNDATED for choice in choices)
        result = {"rows": rows, "frames": len(choices), "short_frames": short,
                  "sensors": list(sensors), "dim": corpus.dim,
                  "timescale": params.timescale if dated else "frame"}
        if params.method.startswith("dpp"):
            result["diverse"] = int(sum(len(choice.selection.diverse) for choice in choices))
            result["expected_diverse"] = float(sum(
                choice.selection.expected_diverse for choice in choices))
        return result

    def summary(self, results: Results) -> str:
        """``500 rows, 88 of 92 per day in the diverse part``."""
        rows = sum(result.get("rows", 0) for result in results)
        text = count_of(rows, "row")
        filled = [result for result in results if result.get("frames")]
        frames = sum(result["frames"] for result in filled)
        if not frames:
            return text
        if empty := sum(result.get("rows") == 0 for result in results):
            text += f" ({count_of(empty, 'sensor')} without rows)"
        scale = filled[0].get("timescale", "frame")
        short = sum(result.get("short_frames", 0) for result in results)
        fewer = f"; fewer than requested in {short:,} of {frames:,} {scale}s" if short else ""
        chosen = [result for result in filled if result.get("diverse") is not None]
        if chosen:
            drawn = sum(result["frames"] for result in chosen)
            diverse = sum(result["diverse"] for result in chosen) / drawn
            size = sum(result["rows"] for result in chosen) / drawn
            return f"{text}, {diverse:.0f} of {size:.0f} per {scale} in the diverse part{fewer}"
        return f"{text}, {rows / frames:.0f} per {scale}{fewer}"


def check_timezone(name: str, where: str) -> None:
    """Refuse a name that is not in the time zone database.

    Parameters
    ----------
    name
        IANA name.
    where
        The parameter, for the message.

    Raises
    ------
    InputError
        With similar names.
    """
    from zoneinfo import ZoneInfo, available_timezones

    from l3hpc.errors import InputError, nearest

    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        close = nearest(name, available_timezones()).split("? valid")[0]
        raise InputError(
            f"unknown time zone {name!r}", where=where,
            allowed=close + "?" if close.startswith("did") else "for example America/New_York, UTC",
        ) from None
