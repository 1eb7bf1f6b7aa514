"""Networks of the L3 family as teachers: weight files, ``untrained``, and our own TFLite files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from l3hpc.errors import InputError, command_line, option
from l3hpc.io.files import digest_file
from l3hpc.models import tflite, weights
from l3hpc.teachers.base import Description, Options, Teacher


class L3Family:
    """Whatever ``l3hpc.models`` reads. It is the last kind that is asked, so it takes any name."""

    def accepts(self, name: str) -> bool:
        """Any name."""
        return True

    def describe(self, name: str, options: Options) -> Description:
        """From the headers of the file."""
        _refuse_missing(name)
        if _is_tflite(name):
            info = tflite.describe_tflite(Path(name), options.geometry)
            return Description("tflite", info.label, info.rate, info.window_s, info.dim)
        known = weights.describe_weights(name, embedding_size=options.embedding_size,
                                         geometry=options.geometry)
        return Description(known.kind, known.label, known.spec.rate, known.spec.window_s,
                           known.spec.dim, known.notes, known.random_weights, known.spec)

    def fingerprint(self, name: str) -> str:
        """``untrained…`` unchanged, or the digest of the file."""
        if weights.untrained_seed(name) is not None:
            return name
        _refuse_missing(name)
        return digest_file(Path(name))

    def identity(self, name: str, options: Options) -> dict[str, Any]:
        """With the network's spec, except for TFLite files."""
        if _is_tflite(name):
            return self.describe(name, options).identity(digest_file(Path(name)))
        return weights.identity(name, embedding_size=options.embedding_size,
                                geometry=options.geometry)

    def load(self, name: str, options: Options) -> Teacher:
        """With the engine that the options name (TFLite: always its own)."""
        if _is_tflite(name):
            return tflite.TfliteEmbedder(Path(name), geometry=options.geometry,
                                         threads=options.threads)
        return weights.load(name, embedding_size=options.embedding_size, geometry=options.geometry,
                            threads=options.threads, engine=options.engine)


def _refuse_missing(name: str) -> None:
    if weights.untrained_seed(name) is None and not Path(name).exists():
        raise InputError(f"no weight file {name}", where=option("weights"),
                         allowed="a file of openl3, edgel3, Keras or l3hpc weights, or 'untrained'",
                         hint=f"See what a file holds: {command_line('doctor')}")


def _is_tflite(name: str) -> bool:
    return Path(name).is_file() and tflite.is_tflite(Path(name))
