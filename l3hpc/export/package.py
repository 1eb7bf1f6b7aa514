"""One model exported: every file of it, or none, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from l3hpc.console.progress import Progress
from l3hpc.datasets.corpus import scan
from l3hpc.export import ccode, inputs, report
from l3hpc.export.build import Built, Settings, build, check_output
from l3hpc.export.inputs import describe_model, read_model
from l3hpc.io.files import whole_folder, write_bytes, write_json, write_text
from l3hpc.models.spec import NetworkSpec


def preview(name: str | Path, output: Path, settings: Settings) -> dict[str, Any]:
    """What ``export_model`` would do, without TensorFlow; refuses what it would refuse."""
    check_output(output)
    info = describe_model(name, settings.geometry)
    settings.check(info.spec)
    recordings = 0 if settings.calibrate is None else len(scan(settings.calibrate))
    return {"model": info.label, "dim": info.spec.dim, "format": settings.form,
            "strips": settings.in_strips, "frontend": settings.frontend, "output": str(output),
            "recordings": recordings, "files": settings.files(info.spec)}


def export_model(name: str | Path, output: Path, settings: Settings,
                 progress: Progress | None = None) -> dict[str, Any]:
    """Export the network in a weights file into the new folder ``output``; its report.

    Raises ``InputError`` for a model, settings or recordings that cannot be, before anything is
    written; ``L3hpcError`` where the export is not what it has to be.
    """
    progress = progress or Progress()
    check_output(output)
    parameters, info = read_model(name, settings.geometry)
    settings.check(info.spec)
    network = parameters.folded()
    progress.start("export", total=4, unit="steps")
    progress.advance(0, now="reading")
    found = None if settings.calibrate is None else inputs.read(settings.calibrate, info.spec.rate)
    progress.advance(now="converting")
    ranges = None if found is None else info.spec.frontend(found.ranges, threads=None)
    built = build(network, settings, ranges)
    progress.advance(now="checking")
    made = report.make(info, settings, network, built, found)
    progress.advance(now="writing")
    _write(output, settings, info.spec, built, made)
    progress.advance()
    progress.finish()
    return made


def _write(output: Path, settings: Settings, spec: NetworkSpec, built: Built,
           made: dict[str, Any]) -> None:
    model = built.model
    flatbuffer = model.to_bytes()
    tensor = model.inputs[0]
    end = (model.type(tensor).lower(), *model.quantisation(tensor))
    measured = made["models"][-1]["arena"]["measured"]
    reserve = measured["total"] if measured and settings.frontend == "outside" else 0
    makers: dict[str, Callable[[], bytes | str]] = {
        "model.tflite": lambda: flatbuffer,
        "l3_model.h": lambda: ccode.model_header(model, len(flatbuffer), reserve),
        "l3_model.c": lambda: ccode.model_source(flatbuffer),
        "l3_frontend.h": lambda: ccode.frontend_header(spec.frontend, *end),
        "l3_frontend.c": lambda: ccode.frontend_source(spec.frontend, *end),
        "card.md": lambda: report.text(made),
    }
    with whole_folder(output) as folder:
        for name in settings.files(spec):
            if name == "report.json":
                write_json(folder / name, made)
                continue
            content = makers[name]()
            if isinstance(content, bytes):
                write_bytes(folder / name, content)
            else:
                write_text(folder / name, content)
