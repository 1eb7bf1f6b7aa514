"""Why one recording cannot be used."""

from __future__ import annotations

from l3hpc.errors import L3hpcError

REASONS = ("unreadable", "empty", "silent", "too short")


class AudioError(L3hpcError):
    """One recording cannot be used.

    ``reason`` is one of ``'unreadable'``, ``'empty'``, ``'silent'``, ``'too short'``.
    """

    def __init__(self, message: str, *, reason: str = "unreadable", where: str | None = None,
                 allowed: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, where=where, allowed=allowed, hint=hint)
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}; valid: {', '.join(REASONS)}")
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        state = {"where": self.where, "allowed": self.allowed, "hint": self.hint,
                 "reason": self.reason}
        return (type(self), (self.message,), state)
