"""Transforms of real samples: SciPy's compiled PocketFFT, without the rest of ``scipy.fft``.

Importing ``scipy.fft`` imports ``scipy.special`` and SciPy's layer for other array libraries, which
takes 0.17 seconds of CPU: a quarter of what a task of a job array costs before it works. The
compiled module is private to SciPy, so it is tried when it is loaded; another one than expected is
not used, and ``scipy.fft`` is imported instead. Both compute the same bits.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
from types import ModuleType
from typing import Any, cast

import numpy as np

_FORWARD, _INVERSE = 0, 2  # not scaled, divided by the length


def rfft(samples: np.ndarray, size: int | None = None) -> np.ndarray:
    """Transform real samples along the last axis.

    Parameters
    ----------
    samples
        (…, n) float32 or float64.
    size
        Length of the transform: shorter samples are padded with zeros, longer ones cut. None: n.

    Returns
    -------
    numpy.ndarray
        (…, size // 2 + 1) complex64 or complex128.
    """
    module = _compiled()
    given = samples.shape[-1] if size is None else size
    if module is None or samples.dtype not in (np.float32, np.float64):
        from scipy import fft

        return cast("np.ndarray", fft.rfft(samples, given))
    if samples.shape[-1] > given:
        samples = samples[..., :given]
    elif samples.shape[-1] < given:
        padded = np.zeros((*samples.shape[:-1], given), samples.dtype)
        padded[..., :samples.shape[-1]] = samples
        samples = padded
    return cast("np.ndarray", module.r2c(samples, (samples.ndim - 1,), True, _FORWARD, None, 1))


def irfft(spectrum: np.ndarray, size: int) -> np.ndarray:
    """Invert ``rfft``.

    Parameters
    ----------
    spectrum
        (…, size // 2 + 1) complex64 or complex128.
    size
        Length of the transform.

    Returns
    -------
    numpy.ndarray
        (…, size) float32 or float64.
    """
    module = _compiled()
    if module is None or spectrum.dtype not in (np.complex64, np.complex128):
        from scipy import fft

        return cast("np.ndarray", fft.irfft(spectrum, size))
    return cast("np.ndarray", module.c2r(spectrum, (spectrum.ndim - 1,), size, False, _INVERSE,
                                         None, 1))


def next_fast_len(size: int) -> int:
    """Return the smallest length of a real transform that is fast, and not below ``size``.

    Parameters
    ----------
    size
        The least length.
    """
    module = _compiled()
    if module is None:
        from scipy import fft

        return int(fft.next_fast_len(size, real=True))
    return int(module.good_size(size, True))


@functools.cache
def _compiled() -> Any:
    """The compiled module; None if it is not as expected."""
    try:
        module = _load()
        impulse = np.array([[0, 1, 0, 0]], np.float32)
        spectrum = module.r2c(impulse, (1,), True, _FORWARD, None, 1)
        back = module.c2r(spectrum, (1,), 4, False, _INVERSE, None, 1)
        right = (spectrum.dtype == np.complex64 and spectrum.tolist() == [[1, -1j, -1]]
                 and back.dtype == np.float32 and back.tolist() == impulse.tolist()
                 and module.good_size(13, True) == 15)
    except Exception:  # of whatever kind: it is somebody else's
        return None
    return module if right else None


def _load() -> ModuleType:
    package = importlib.util.find_spec("scipy")
    assert package is not None and package.submodule_search_locations
    folders = [os.path.join(folder, "fft", "_pocketfft")
               for folder in package.submodule_search_locations]
    spec = importlib.machinery.PathFinder.find_spec("pypocketfft", folders)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
