"""How messages name options and parameters: as the command does, ``l3hpc run``, or a notebook.

Code names an option by ``option`` and a parameter by ``setting``; who shows the message decides how
they are worded (``by_hand``, ``as_arguments``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence

# the step that runs outside of a run, and its parameters
_by_hand: tuple[str, Collection[str]] = "", ()


@contextlib.contextmanager
def by_hand(step: str, parameters: Collection[str]) -> Iterator[None]:
    """Word messages for a step that a person runs by ``l3hpc run``, while the block runs.

    There is no run to resume, and its parameters are set by ``--set NAME``: so ``setting``,
    ``option`` and the ``where`` of an error name them.

    Parameters
    ----------
    step
        Name of the step.
    parameters
        Names of its parameters.
    """
    global _by_hand
    before, _by_hand = _by_hand, (step, parameters)
    try:
        yield
    finally:
        _by_hand = before


# options of ``l3hpc submit`` that are arguments of ``l3hpc.submit`` under another name
_ARGUMENTS = {"from": "start", "config": "config_file", "set": "sets", "input": "inputs"}
_MAPPINGS = ("set", "input", "grid")
_CONSTANTS = {"true": "True", "false": "False", "null": "None"}
_as_arguments = False


@contextlib.contextmanager
def as_arguments() -> Iterator[None]:
    """Name options in messages as arguments of ``l3hpc.submit``, while the block runs."""
    global _as_arguments
    before, _as_arguments = _as_arguments, True
    try:
        yield
    finally:
        _as_arguments = before


def named(place: str) -> str:
    """Name a place in a message: an option, where a value comes from, or a parameter.

    Parameters
    ----------
    place
        ``--OPTION``, ``--OPTION VALUE`` or STEP.NAME; anything else is returned unchanged.

    Examples
    --------
    >>> named("--emb-dim"), named("--set train.epochs"), named("cluster.yaml:3")
    ('--emb-dim', '--set train.epochs', 'cluster.yaml:3')
    >>> with as_arguments():
    ...     named("--emb-dim"), named("--set train.epochs"), named("--from fit")
    ('emb_dim', 'sets["train.epochs"]', "start='fit'")
    """
    name, _, value = place.removeprefix("--").partition(" ")
    if _as_arguments and place.startswith("--") and name.replace("-", "").isalpha():
        return option(name, value or None)
    return setting(place)


def setting(name: str, value: object = None) -> str:
    """Name a parameter or resource of a step in a message, or how to set it.

    Parameters
    ----------
    name
        STEP.NAME, as in a pipeline file.
    value
        What to set it to; None: the message is only about it.

    Examples
    --------
    >>> setting("folds.partial"), setting("folds.partial", "true")
    ('folds.partial', '--set folds.partial=true')
    >>> with by_hand("folds", ["partial"]):
    ...     setting("folds.partial"), setting("folds.partial", "true")
    ('--set partial', '--set partial=true')
    """
    step, _, own = name.partition(".")
    if step == _by_hand[0] and own in _by_hand[1]:
        name = f"--set {own}"
    elif value is not None:
        return option("set", f"{name}={value}")
    return name if value is None else f"{name}={value}"


def option(name: str, value: object = None, *, sets: str | None = None) -> str:
    """Name an option of a command in a message, or of ``l3hpc run`` the parameter that it sets.

    Parameters
    ----------
    name
        Of the option, without ``--``.
    value
        Its value; None: the message is only about it.
    sets
        The parameter; None: that with the name of the option.

    Examples
    --------
    >>> option("emb-dim"), option("folds", 5)
    ('--emb-dim', '--folds 5')
    >>> with by_hand("folds", ["fold_count"]):
    ...     option("emb-dim"), option("folds", 5, sets="fold_count")
    ('--emb-dim', '--set fold_count=5')
    >>> with as_arguments():
    ...     option("emb-dim"), option("approx", "pca"), option("set", "train.epochs=5")
    ('emb_dim', "approx='pca'", 'sets={"train.epochs": 5}')
    """
    if _as_arguments:
        return _argument(name, value)
    step, parameters = _by_hand
    parameter = sets or name.replace("-", "_")
    if parameter in parameters:
        return setting(f"{step}.{parameter}", value)
    return f"--{name}" if value is None else f"--{name} {value}"


def _argument(name: str, value: object) -> str:
    argument = _ARGUMENTS.get(name, name.replace("-", "_"))
    if value is None:
        return argument
    if name not in _MAPPINGS:
        return f"{argument}={value!r}"
    key, equals, given = str(value).partition("=")
    if name == "grid":
        key = key.replace("-", "_")
    return f'{argument}={{"{key}": {_CONSTANTS.get(given, given)}}}' if equals \
        else f'{argument}["{key}"]'


def repair_and_repeat(names: Sequence[str], find: str = "") -> str:
    """Return the hint where too many of the files that a step reads are unusable.

    Parameters
    ----------
    names
        The parameters that allow more of them to be unusable, as STEP.NAME.
    find
        How to find all of them, in brackets.
    """
    if step := _by_hand[0]:
        [own] = [setting(name, 0.5) for name in names if name.startswith(f"{step}.")]
        return f"Repair{find} or remove them, or add {own}; then repeat this command"
    allow = " ".join(setting(name, 0.5) for name in names)
    return (f"Repair them{find} and resume the run; or remove them and submit it again; or accept "
            f"them: submit with {allow}")
