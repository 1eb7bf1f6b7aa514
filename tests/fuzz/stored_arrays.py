"""HDF5 and npz files of embeddings and audio: odd types, shapes, links, filters, and damage."""

from __future__ import annotations

import contextlib
import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from . import bases, damage
from .oracle import call, command
from .runner import Case, Fault, Surface, Verdict

SECRET = np.float32(0.1234567)  # in files that nobody named; not the value of any int16
DTYPES = ("f4", "f8", "f2", ">f4", "i2", "i4", "u1", "i8", "c8", "S8", "O", "bool", "M8[s]")
SHAPES = ((0, 8), (8, 0), (5,), (2, 3, 8), (1, 8), (0, 0), (), (1, 2**31), (2**40, 2),
          (10**6, 10**6), (1, 1, 4000), (3, 2, 4000))


class StoredArrays(Surface):
    """A folder with one file."""

    name = "hdf5-npz"
    share = 700

    def prepare(self, folder: Path) -> None:
        import h5py

        rng = np.random.default_rng(1)
        self.embeddings = np.abs(rng.normal(size=(12, 8))).astype(np.float32)
        self.audio = (bases.sound(3.0).reshape(3, RATE) * 30000).astype(np.int16)
        self.secret = folder / "secret.h5"
        with h5py.File(self.secret, "w") as file:
            file["l3_embedding"] = np.full((12, 8), SECRET, np.float32)
            file["audio"] = np.full((3, RATE), SECRET, np.float32)
        self.raw = folder / "secret.raw"
        np.full((12, RATE), SECRET, np.float32).tofile(self.raw)

    def judge(self, case: Case) -> Verdict:
        rng, place = case.rng, case.folder / "data"
        place.mkdir()
        kind = rng.choice(("embeddings", "embeddings", "audio", "audio", "npz"))
        path = place / ("x.npz" if kind == "npz" else "x.h5")
        changes = list(case.damages())
        made = next((change for change in changes if change.random() < 0.7), None)
        if kind == "npz":
            path.write_bytes(npz(self.embeddings, made))
        else:
            self._hdf5(path, kind, made)
        for change in changes:
            if change is not made:
                path.write_bytes(damage.binary(path.read_bytes(), change, 2048))
        said = command("data", "check", "data", "--json",
                       *(("--listen",) if rng.random() < 0.5 else ()), codes=(0, 1, 2))
        found = [self._read(path, kind)]
        if kind != "npz":
            found.append(self._rows(path))
        for matrix in found:
            if matrix is not None and matrix.size and (matrix == SECRET).any():
                raise Fault(f"another file was read through {path.name} ({kind})")
        if not changes and (said.code or found[0 if kind != "audio" else -1] is None):
            raise Fault(f"a whole file is refused: {said.out[-400:]}{said.err[-400:]}")
        taken = any(matrix is not None for matrix in found)
        return Verdict(taken, said.code)

    def _read(self, path: Path, kind: str) -> np.ndarray | None:
        """All embeddings of the file, as the steps read them."""
        from l3hpc.datasets.embeddings import open_source

        source = call(open_source, path)
        if isinstance(source, Exception):
            return None
        parts = []
        for part in source.parts:
            rows = call(lambda part=part: part.rows)
            if isinstance(rows, Exception):
                return None
            if rows > 10**7:
                raise Fault(f"{rows} rows are believed of a file of {path.stat().st_size} bytes")
            blocks = call(lambda part=part: list(part.chunks()))
            if isinstance(blocks, Exception):
                return None
            matrix = np.concatenate([np.zeros((0, part.dim), np.float32), *blocks])
            if len(matrix) != rows or matrix.dtype != np.float32:
                raise Fault(f"{len(matrix)} rows of {rows}, {matrix.dtype}")
            parts.append(matrix)
        return parts[0] if parts else None

    def _rows(self, path: Path) -> np.ndarray | None:
        """All rows of audio of the file."""
        from l3hpc.audio.files import probe
        from l3hpc.audio.hdf5_rows import count_rows, read_rows

        about = call(probe, path)
        count = call(count_rows, path)
        if isinstance(count, Exception) or isinstance(about, Exception):
            return None
        if about.rate < 1 or about.frames < 0:
            raise Fault(f"audio of {about.rate} Hz, {about.frames} samples")
        found = call(read_rows, path)
        if isinstance(found, Exception):
            return None
        rows, rate = found
        if len(rows) != count or rows.ndim != 2 or rows.dtype != np.float32 or rate != about.rate:
            raise Fault(f"audio of shape {rows.shape} ({rows.dtype}), {count} rows told")
        return rows

    def _hdf5(self, path: Path, kind: str, rng: random.Random | None) -> None:
        import h5py

        name = "audio" if kind == "audio" else "l3_embedding"
        data = self.audio if kind == "audio" else self.embeddings
        with h5py.File(path, "w", libver=("earliest", "latest")) as file:
            if rng is None:
                made = file.create_dataset(name, data=data, compression="gzip")
                if kind == "audio":
                    made.attrs["rate"] = RATE
                return
            with contextlib.suppress(ValueError, TypeError, OverflowError):
                self._odd(file, name, data, rng)
            if rng.random() < 0.3:
                with contextlib.suppress(TypeError, ValueError, OSError, KeyError, RuntimeError):
                    file[name].attrs[rng.choice(("rate", "sr", "sample_rate"))] = rng.choice(
                        (0, -1, 1, 0.5, float("nan"), float("inf"), "8000", "x", 2**62, [1, 2],
                         np.bool_(True)))
            other = rng.choice(("other", "pca_batch_8", "audio", "l3_embedding", "label"))
            if rng.random() < 0.15 and other not in list(file):
                file[other] = rng.choice((self.embeddings, self.embeddings[:5], np.arange(5),
                                          "text"))

    def _odd(self, file: Any, name: str, data: np.ndarray, rng: random.Random) -> None:
        import h5py

        kind = rng.randrange(13)
        if kind == 0:
            file.create_dataset(name, data=data.astype(rng.choice(DTYPES)))
        elif kind == 1:
            shape = rng.choice(SHAPES)
            file.create_dataset(name, shape, rng.choice(("f4", "i2")), chunks=tuple(
                max(min(side, 64), 1) for side in shape) or None)
        elif kind == 2:
            file[name] = h5py.ExternalLink(str(self.secret), name)
        elif kind == 3:
            layout = h5py.VirtualLayout(data.shape, "f4")
            layout[:] = h5py.VirtualSource(str(self.secret), name, data.shape)
            file.create_virtual_dataset(name, layout)
        elif kind == 4:
            file.create_dataset(name, data.shape, "f4", external=[
                (str(self.raw), 0, h5py.h5f.UNLIMITED)])
        elif kind == 5:
            file[name] = h5py.SoftLink(rng.choice((f"/{name}", "/nowhere", "/", "/g/x")))
        elif kind == 6:
            held = data.astype(np.float32)
            held[rng.randrange(len(held))] = rng.choice((np.nan, np.inf, 3e38))
            file[name] = held
        elif kind == 7:
            file.create_group(name)
        elif kind == 8:
            file.create_dataset(name, data=data, compression=rng.choice(("lzf", "gzip")),
                                shuffle=True, fletcher32=True)
        elif kind == 9:  # a filter that is not here, with nothing stored
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_chunk(data.shape)
            plist.set_filter(h5py.h5z.FILTER_DEFLATE, h5py.h5z.FLAG_OPTIONAL, (4,))
            h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(data.dtype),
                            h5py.h5s.create_simple(data.shape), plist)
        elif kind == 10:
            file.create_dataset(name, data.shape, h5py.special_dtype(vlen=np.dtype("f4")))
        elif kind == 11:
            file.create_dataset(name, data=data[:, :1] if rng.random() < 0.5 else data.T)
        else:
            file.create_dataset(name, data=np.zeros(3, [("a", "f4"), ("b", "i2")]))


RATE = bases.RATE


def npz(data: np.ndarray, rng: random.Random | None) -> bytes:
    """An npz file; with ``rng`` an odd one."""
    held = io.BytesIO()
    if rng is None:
        np.savez(held, embedding=data, timestamps=np.arange(len(data)) * 0.1)
        return held.getvalue()
    kind = rng.randrange(7)
    if kind == 0:
        with contextlib.suppress(ValueError):
            np.savez(held, embedding=data.astype(rng.choice(DTYPES)))
    elif kind == 1:
        np.savez(held, **{rng.choice(("x", "embeddings", "", "../embedding", "a/b")): data})
    elif kind == 2:
        shape = rng.choice(((-1,), (2, 6, 8), (96, 1), (0, 8)))
        np.savez(held, embedding=data[:0] if 0 in shape else data.reshape(shape))
    elif kind == 3:
        np.savez(held, embedding=np.asfortranarray(data), other=data)
    else:  # a header that declares what is not there
        shape = rng.choice(("(12, 8)", "(10000000, 10000000)", "(12, -8)", "(12,)", "(1e3, 8)",
                            "(99999999999999999999, 8)", "(2147483648, 8)", "[12, 8]", "None"))
        kinds = rng.choice(("'<f4'", "'|O'", "'<f3'", "'<V9999999'", "[('a', '<f4')]", "None"))
        header = f"{{'descr': {kinds}, 'fortran_order': False, 'shape': {shape}, }}"
        header = header.ljust(117) + "\n"
        body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + \
            data.tobytes()[:rng.choice((0, 7, 384))]
        with zipfile.ZipFile(held, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
                             ) as file:
            file.writestr("embedding.npy", body)
    return held.getvalue() or json.dumps([]).encode()
