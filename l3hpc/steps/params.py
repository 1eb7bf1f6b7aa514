"""Typed parameters of a step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

# Limits of numbers, so that a slip is refused while a run is planned, and not hours later by a
# library (scikit-learn and UMAP count in 32 bits, Keras and scikit-learn take seeds of 32 bits).
MOST = 1_000_000_000
MAX_BATCH = 1_000_000  # rows that are in memory at once
MAX_SEED = 2**32 - 1
MAX_DRAW_SEED = 2**63 - 1  # where NumPy alone draws; JSON readers and HDF5 hold it
LEAST = 1e-12  # of rates, factors and tolerances: smaller ones train nothing, or are never reached
DAY_S = 86_400


class Params(BaseModel):
    """Typed parameters: unknown names are refused and values cannot change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    # Parameters that a later version added: at their default they are left out of plans, so that
    # the fingerprints of earlier versions hold.
    added: ClassVar[frozenset[str]] = frozenset()

    @field_validator("*")
    @classmethod
    def _one_zero(cls, value: Any) -> Any:
        """-0.0 is 0.0: the same value must not have two fingerprints."""
        return 0.0 if isinstance(value, float) and value == 0 else value

    @model_serializer(mode="wrap")
    def _leave_out_added(self, handler: SerializerFunctionWrapHandler,
                         info: SerializationInfo) -> dict[str, Any]:
        values = handler(self)
        if (info.context or {}).get("all"):
            return values
        return {name: value for name, value in values.items()
                if name not in self.added or getattr(self, name) != self.value_if_left_out(name)}

    def value_if_left_out(self, name: str) -> Any:
        """The value that a parameter has if it is not given beside the others.

        Parameters
        ----------
        name
            The parameter.
        """
        return type(self).model_fields[name].get_default()

    def all_values(self) -> dict[str, Any]:
        """All parameters as JSON values, also those that plans leave out at their default.

        Returns
        -------
        dict
            Name → value.
        """
        return self.model_dump(mode="json", context={"all": True})


def absolute(path: Path | None) -> Path | None:
    """A path of a parameter from the root, so that a frozen config is valid in any folder.

    Without ``..``, as the paths of the configuration: messages show it.
    """
    return None if path is None else Path(os.path.abspath(path.expanduser()))
