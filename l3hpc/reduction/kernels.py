"""The kernels of kernel PCA, of standardised rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal, TypeAlias

import numpy as np

from l3hpc.errors import InputError

KernelName: TypeAlias = Literal["poly", "rbf"]
MAX_DEGREE = 10


@dataclass(frozen=True)
class Kernel:
    """A kernel of scikit-learn's ``pairwise_kernels``.

    Parameters
    ----------
    name
        'poly': (gamma · xᵀy + coef0)^degree; 'rbf': exp(−gamma · |x − y|²).
    gamma
        Above 0, finite.
    degree, coef0
        Of 'poly': a whole number from 1 to 10, and a finite number from 0, as with a negative one
        it is not a kernel.

    Raises
    ------
    InputError
        For other values.

    Examples
    --------
    >>> import numpy as np
    >>> from l3hpc.reduction.kernels import Kernel
    >>> Kernel("poly", gamma=0.5, degree=2, coef0=1.0)(np.ones((1, 2)), np.eye(2)).tolist()
    [[2.25, 2.25]]
    """

    name: KernelName
    gamma: float
    degree: int = 3
    coef0: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in ("poly", "rbf"):
            raise InputError(f"unknown kernel {self.name!r}", allowed="valid: poly, rbf")
        # Types, too: the values of a damaged file of φ come here as they are.
        for name, right, allowed in (
                ("gamma", _is_finite(self.gamma) and self.gamma > 0, "a number above 0"),
                ("degree", isinstance(self.degree, int) and not isinstance(self.degree, bool)
                 and 1 <= self.degree <= MAX_DEGREE, f"a whole number from 1 to {MAX_DEGREE}"),
                ("coef0", _is_finite(self.coef0) and self.coef0 >= 0, "a number from 0")):
            if not right:
                raise InputError(f"{name} is {getattr(self, name)!r}", allowed=allowed)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The kernel of every row of x, shape (n, d), and of y, (m, d): shape (n, m)."""
        values = x @ y.T
        if self.name == "rbf":
            values *= -2
            values += np.einsum("ij,ij->i", x, x)[:, None]
            values += np.einsum("ij,ij->i", y, y)
            # Rounding makes the distance of equal rows negative.
            np.maximum(values, 0, out=values)
            values *= -self.gamma
            return np.exp(values, out=values)
        values *= self.gamma
        values += self.coef0
        return self._power(values)

    def diagonal(self, x: np.ndarray) -> np.ndarray:
        """The kernel of every row of x, shape (n, d), and itself: shape (n,)."""
        if self.name == "rbf":
            return np.ones(len(x))
        return self._power(self.gamma * np.einsum("ij,ij->i", x, x) + self.coef0)

    def _power(self, base: np.ndarray) -> np.ndarray:
        # np.power with such an exponent takes ten times as long as these products.
        power = base.copy() if self.degree > 1 else base
        for _ in range(self.degree - 1):
            power *= base
        return power


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
