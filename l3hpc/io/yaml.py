"""Reading of YAML as plain data, within limits, with the line of every value.

PyYAML's safe schema without its traps: ``4:00:00`` and ``2026-11-20`` stay strings, ``1e-4`` is a
number, and a key that is written twice is refused. So is everything that is not a string, a finite
number, true, false, null, a list or a mapping. Size, depth and the expansion of aliases are limited
here, because PyYAML does not limit them.
"""

from __future__ import annotations

import codecs
import math
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from l3hpc.errors import InputError
from l3hpc.io.values import without_addresses

KeyPath = tuple[str | int, ...]  # keys and list indices from the root to a value
MAX_BYTES = 256 * 1024
MAX_NODES = 10_000
MAX_DEPTH = 50
MAX_INTEGER = 2**63
_TAG = "tag:yaml.org,2002:"
_SCALARS = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "merge", "value")}
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class _Loader(yaml.SafeLoader):
    """The safe loader with the number rules of YAML 1.2, without dates, and with limits."""

    def __init__(self, text: str, name: str) -> None:
        self._name, self._depth, self._nodes = name, 0, 0
        super().__init__(text)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node of the tree, and refuse too many or too deep ones as it grows."""
        self._depth, self._nodes = self._depth + 1, self._nodes + 1
        mark = self.peek_event().start_mark
        if self._depth > MAX_DEPTH:
            raise _refusal(self._name, mark, "lists or mappings are nested more than "
                                             f"{MAX_DEPTH} deep")
        if self._nodes > MAX_NODES:
            raise _refusal(self._name, mark, f"more than {MAX_NODES:,} values")
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers
            if tag.rsplit(":", 1)[1] not in ("int", "float", "timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_TAG}int", re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"[-+]?(?:\d[\d_]*\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?"
               r"|\d[\d_]*[eE][-+]?\d+|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path, name: str | None = None) -> tuple[Any, dict[KeyPath, int]]:
    """Read a YAML file.

    Parameters
    ----------
    path
        The file.
    name
        The name of the file in messages; None for ``path``.

    Returns
    -------
    data : object
        The value; {} for an empty file.
    lines : dict
        Key path → line number (from 1) of each value.

    Raises
    ------
    InputError
        The file cannot be read, is not valid YAML, or exceeds a limit; with line and column.
    """
    name = name or str(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would block
            raise InputError("cannot be read: not a regular file", where=name)
        with open(path, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", where=name) from None
    if len(content) > MAX_BYTES:
        raise _too_large(name)
    if content.startswith(_UTF_16) or b"\x00" in content[:64]:
        raise InputError("not UTF-8 text (UTF-16?)", where=name,
                         hint="Save it as UTF-8 in your editor.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[:error.start].decode("utf-8", "replace")
        raise InputError(f"not UTF-8 text: byte 0x{content[error.start]:02x}",
                         where=f"{name}:{_position(before)}",
                         hint="Save it as UTF-8 in your editor.") from None
    return parse_yaml(text, name)


def parse_yaml(text: str, name: str) -> tuple[Any, dict[KeyPath, int]]:
    """Parse YAML text as ``read_yaml`` does; ``name`` is the name of the file in messages."""
    if len(text) > MAX_BYTES:
        raise _too_large(name)
    lines: dict[KeyPath, int] = {}
    try:
        loader = _Loader(text, name)
        node = loader.get_single_node()
        return ({} if node is None else _Values(loader, name, lines).value(node, ())), lines
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        if "'\\t'" in problem:
            # the words of PyYAML name a token, and not what one sees
            problem = "a tab where only spaces are allowed"
        raise _refusal(name, error.problem_mark or error.context_mark,
                       f"not valid YAML: {problem}") from None
    except yaml.reader.ReaderError as error:
        position = _position(text[:error.position])
        raise InputError(f"not valid YAML: the character {chr(int(error.character))!r}"
                         if isinstance(error.character, int) else f"not valid YAML: {error.reason}",
                         where=f"{name}:{position}") from None
    except RecursionError:
        raise InputError("lists or mappings are nested too deep",
                         where=name) from None
    except yaml.YAMLError as error:
        raise InputError(f"not valid YAML: {str(error).splitlines()[0]}", where=name) from None


class _Values:
    """Converts nodes to plain values and expands aliases, within the limits."""

    def __init__(self, loader: _Loader, name: str, lines: dict[KeyPath, int]) -> None:
        self._loader, self._name, self._lines = loader, name, lines
        self._merged: dict[int, dict[str, tuple[yaml.Node, yaml.Node]] | None] = {}
        self._count = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """Convert the node at ``path``."""
        self._count += 1
        if self._count > MAX_NODES:  # aliases of aliases grow without bound
            raise self._refuse(node, f"more than {MAX_NODES:,} values with all aliases")
        if len(path) > MAX_DEPTH:
            raise self._refuse(node, "an alias refers to the value that contains it")
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            result: dict[str, Any] = {}
            for key, (key_node, item) in self._pairs(node).items():
                self._lines[(*path, key)] = key_node.start_mark.line + 1
                result[key] = self.value(item, (*path, key))
            return result
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            return self._scalar(node)
        raise self._refuse(node, f"the tag {_tag_name(node.tag)} is not plain data")

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if kind in ("merge", "value"):
            return node.value
        try:
            value = self._loader.construct_object(node)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, yaml.YAMLError):
            raise self._refuse(node, f"{_cut(node.value)} is not a valid {kind}") from None
        if isinstance(value, float) and not math.isfinite(value) or \
                isinstance(value, int) and abs(value) >= MAX_INTEGER:
            raise self._refuse(node, f"{_cut(node.value)} is not a number that can be used")
        return value

    def _pairs(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Key → (key node, value node), with the mappings merged by ``<<``; own keys win."""
        if id(node) in self._merged:
            cached = self._merged[id(node)]
            if cached is None:
                raise self._refuse(node, "an alias refers to the value that contains it")
            return cached
        self._merged[id(node)] = None  # marks it as in progress
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, item in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in _SCALARS:
                raise self._refuse(key_node, "a key must be a plain word")
            self._scalar(key_node)
            key = key_node.value
            if key_node.tag == f"{_TAG}merge":
                for source in item.value if isinstance(item, yaml.SequenceNode) else [item]:
                    if not isinstance(source, yaml.MappingNode):
                        raise self._refuse(source, "<< takes a mapping, or a list of mappings")
                    self._count += len(source.value)
                    for name, pair in self._pairs(source).items():
                        merged.setdefault(name, pair)
                continue
            if key in own:
                first = own[key][0].start_mark.line + 1
                raise self._refuse(key_node,
                                   f"key {_cut(key)} is written twice (first in line {first})")
            own[key] = key_node, item
        pairs = {**{key: pair for key, pair in merged.items() if key not in own}, **own}
        # Aliases name the same node many times; without this, merges of merges would take
        # exponential time.
        self._merged[id(node)] = pairs
        return pairs

    def _refuse(self, node: yaml.Node, message: str) -> InputError:
        return _refusal(self._name, node.start_mark, message)


def _refusal(name: str, mark: yaml.Mark | None, message: str) -> InputError:
    position = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
    return InputError(without_addresses(message), where=f"{name}{position}")


def _too_large(name: str) -> InputError:
    return InputError(f"larger than {MAX_BYTES // 1024} KB, too large for a settings file",
                      where=name)


def _position(before: str) -> str:
    """``line:column`` of the character after this text."""
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def _cut(text: str) -> str:
    return repr(text) if len(text) <= 60 else repr(text[:57]) + "…"


def _tag_name(tag: str) -> str:
    return _cut(f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag)
