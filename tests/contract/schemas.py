"""The form of what the commands say with ``--json``: which keys, of which types.

A schema is an object of keys, a list with the one schema of its items (or none), or the names of
types, ``null|number``. Keys that are data (a path, a title, the name of a run) are one: ``*``.
"""

import json
import re

from goldens import HERE, HOW, REGOLD, write_json

NAME = re.compile(r"[a-z][a-z0-9_.]*")
TYPES = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string"}


def schema(value):
    if isinstance(value, dict):
        found = {}
        for key, each in value.items():
            key = key if NAME.fullmatch(key) else "*"
            found[key] = merged(found[key], schema(each)) if key in found else schema(each)
        return found
    if isinstance(value, list):
        items = [schema(each) for each in value]
        return [every(items)] if items else []
    return TYPES[type(value)]


def every(schemas):
    """One schema of which all of these are cases."""
    first, *others = schemas
    for other in others:
        first = merged(first, other)
    return first


def merged(one, other):
    if isinstance(one, dict) and isinstance(other, dict):
        return {**one, **{key: merged(one[key], each) if key in one else each
                          for key, each in other.items()}}
    if isinstance(one, list) and isinstance(other, list):
        return [every(one + other)] if one or other else []
    if isinstance(one, str) and isinstance(other, str):
        return "|".join(sorted({*one.split("|"), *other.split("|")}))
    if one == other:
        return one
    if "null" in (one, other):  # an object or a list that need not be there
        return one if other == "null" else other
    raise AssertionError(f"two forms of one value: {one} and {other}")


def broken(then, now, where="$"):
    """What a reader who knew the schema of then no longer finds. New keys are none of this."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key, each in then.items():
            if key in now:
                yield from broken(each, now[key], f"{where}.{key}")
            else:
                yield f"{where}.{key} is gone"
    elif isinstance(then, list) and isinstance(now, list):
        if then and not now:
            yield f"{where}[] has no items now"
        elif then:
            yield from broken(then[0], now[0], f"{where}[]")
    elif not (isinstance(then, str) and isinstance(now, str)
              and {*now.split("|")} <= {*then.split("|")}):
        yield f"{where}: {then!r} is now {now!r}"


def check_schema(command, values):
    """What a command said, call by call, has the golden forms: json/COMMAND.json."""
    path = HERE / f"json/{command}.json"
    now = [schema(value) for value in values]
    if REGOLD:
        write_json(path, now)
    assert path.exists(), HOW
    then = json.loads(path.read_text())
    assert len(then) == len(now), HOW
    for number, (one, other) in enumerate(zip(then, now, strict=True)):
        assert list(broken(one, other, f"call {number}: $")) == [], HOW
