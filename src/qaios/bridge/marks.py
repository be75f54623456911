"""YAML text in, a tree that remembers the line and column of everything out.

`bridge.missions` reads mission files through this, and so does every file a mission names. The text is parsed once,
by libyaml's event stream, which is not recursive: a file that is nested ten thousand deep or multiplies itself
through aliases is refused by counting, before anything is built from it.

Scalars are resolved as YAML 1.2's core schema does, not as PyYAML's 1.1: `no`, `on` and `12:30` are text, `1e6` is a
number, `010` is ten. What JSON and msgpack cannot carry (dates, binary, infinities, integers beyond 64 bits, custom
tags) is a fault here, so that what leaves is plain data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from qaios.core.errors import Fault

SIZE_MAX_BYTES = 16 * 1024 * 1024
NODES_MAX = 2_000_000
DEPTH_MAX = 64
ALIASES_MAX = 1000
ALIASED_NODES_MAX = 100_000
FAULTS_MAX = 200

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STANDARD = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_NOT_TEXT = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(slots=True)
class Scalar:
    """A leaf: its text as written and the value that text stands for."""

    line: int
    column: int
    text: str
    value: bool | int | float | str | None


@dataclass(slots=True)
class Listing:
    """A YAML sequence."""

    line: int
    column: int
    items: list[Marked] = field(default_factory=list)


@dataclass(slots=True)
class Table:
    """A YAML mapping, in file order; a repeated key has been reported and only its first entry kept."""

    line: int
    column: int
    entries: dict[str, tuple[Scalar, Marked]] = field(default_factory=dict)

    def get(self, key: str) -> Marked | None:
        entry = self.entries.get(key)
        return entry[1] if entry else None


Marked = Scalar | Listing | Table


class Faults:
    """The faults of one document, gathered as they are met and given in file order."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._faults: list[Fault] = []

    def add(self, place: Marked | tuple[int, int], what: str, remedy: str) -> None:
        line, column = place if isinstance(place, tuple) else (place.line, place.column)
        self._faults.append(Fault(self.file, line, column, what, remedy))

    def take(self, others: tuple[Fault, ...]) -> None:
        self._faults.extend(others)

    def __len__(self) -> int:
        return len(self._faults)

    def sorted(self) -> tuple[Fault, ...]:
        """Each fault once, this file's first, by line and column; beyond `FAULTS_MAX` their number is said instead."""
        unique = sorted(
            dict.fromkeys(self._faults),
            key=lambda fault: (fault.file != self.file, fault.file, fault.line, fault.column, fault.what),
        )
        if len(unique) <= FAULTS_MAX:
            return tuple(unique)
        last = unique[FAULTS_MAX - 1]
        more = Fault(
            last.file,
            last.line,
            last.column,
            f"{len(unique) - FAULTS_MAX} more faults are not shown",
            "mend these first",
        )
        return (*unique[:FAULTS_MAX], more)


def parse(content: bytes, faults: Faults) -> Marked | None:
    """The document's tree, or None when there is none to speak of; what is wrong is added to `faults`."""
    text = _decode(content, faults)
    if text is None:
        return None
    composer = _Composer(faults)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if not composer.take(event):
                break
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        faults.add(place, *_explain(error))
        return None
    except yaml.YAMLError as error:
        faults.add((1, 1), f"this is not YAML: {error}", "save the file as plain UTF-8 text")
        return None
    if composer.root is None and not len(faults):
        faults.add((1, 1), "the file is empty", "start with 'mission: NAME' (`qai mission new` writes an example)")
    return composer.root


def plain(node: Marked) -> Any:
    """The tree as plain data: dict, list, str, int, float, bool, None."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Listing):
        return [plain(item) for item in node.items]
    return {key: plain(value) for key, (_, value) in node.entries.items()}


def marked(data: Any, place: tuple[int, int] = (1, 1)) -> Marked:
    """Plain data as a tree, every part at one place: for documents that never were a file."""
    if isinstance(data, dict):
        return Table(*place, {str(key): (Scalar(*place, str(key), str(key)), marked(data[key], place)) for key in data})
    if isinstance(data, list | tuple):
        return Listing(*place, [marked(item, place) for item in data])
    return Scalar(*place, str(data), data)


def scalars(node: Marked) -> Iterator[Scalar]:
    """Every leaf of the tree, in file order, keys left out."""
    if isinstance(node, Scalar):
        yield node
    elif isinstance(node, Listing):
        for item in node.items:
            yield from scalars(item)
    else:
        for _, value in node.entries.values():
            yield from scalars(value)


def _decode(content: bytes, faults: Faults) -> str | None:
    if len(content) > SIZE_MAX_BYTES:
        faults.add((1, 1), f"the file has {len(content)} bytes", f"keep it under {SIZE_MAX_BYTES} bytes")
        return None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace").lstrip("\ufeff")
        faults.add(_place(before), f"byte 0x{content[error.start]:02x} is not UTF-8", "save the file as UTF-8")
        return None
    wrong = _NOT_TEXT.search(text)
    if wrong:
        code = ord(wrong.group())
        faults.add(_place(text[: wrong.start()]), f"the character U+{code:04X} is not allowed", "remove it")
        return None
    return text


def _place(before: str) -> tuple[int, int]:
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


@dataclass(frozen=True, slots=True)
class _Anchored:
    """What an anchor stands for: an alias costs as many nodes, and goes as deep, as the node itself."""

    node: Marked
    nodes: int
    height: int


class _Composer:
    """Builds the tree from libyaml's events with a stack of its own, counting as it goes."""

    def __init__(self, faults: Faults) -> None:
        self.root: Marked | None = None
        self._faults = faults
        self._stack: list[Listing | Table] = []
        self._keys: list[Scalar | None] = []  # of each open table: the key that waits for its value
        self._anchors: dict[str, _Anchored] = {}
        self._open_anchors: list[tuple[str | None, int]] = []  # of each open collection: anchor, node count at start
        self._heights: list[int] = []  # of each open collection: how deep its content goes so far
        self._nodes = 0
        self._aliases = 0
        self._aliased_nodes = 0
        self._documents = 0

    def take(self, event: Any) -> bool:
        """Digest one event; False stops the parse."""
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._faults.add(_mark(event), "a second document begins here", "put each mission in its own file")
                return False
        elif isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        elif isinstance(event, yaml.ScalarEvent):
            if not self._count(event):
                return False
            node = self._scalar(event)
            if event.anchor:
                self._anchors[event.anchor] = _Anchored(node, 1, 0)
            self._place(node)
        elif isinstance(event, yaml.CollectionStartEvent):
            return self._open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()
        return True

    def _count(self, event: Any) -> bool:
        self._nodes += 1
        if self._nodes <= NODES_MAX:
            return True
        self._faults.add(_mark(event), f"the file has more than {NODES_MAX} values", "split the mission")
        return False

    def _open(self, event: Any) -> bool:
        if not self._count(event):
            return False
        if not self._reaches(len(self._stack) + 1, event):
            return False
        is_table = isinstance(event, yaml.MappingStartEvent)
        expected = _STANDARD + ("map" if is_table else "seq")
        if event.tag not in (None, "!", expected):
            self._faults.add(_mark(event), f"the tag '{event.tag}' is not allowed", "remove it")
        node: Listing | Table = Table(*_mark(event)) if is_table else Listing(*_mark(event))
        if not self._place(node):
            # A list or mapping as a key: its content is still read, so that the faults after it are found too.
            self._faults.add(node, "a key must be plain text", "write 'name: value'")
        self._stack.append(node)
        self._keys.append(None)
        self._open_anchors.append((event.anchor, self._nodes))
        self._heights.append(0)
        return True

    def _reaches(self, depth: int, event: Any) -> bool:
        if depth <= DEPTH_MAX:
            return True
        self._faults.add(_mark(event), f"values are nested more than {DEPTH_MAX} deep", "flatten them")
        return False

    def _grow(self, height: int) -> None:
        if self._heights:
            self._heights[-1] = max(self._heights[-1], height)

    def _close(self) -> None:
        node = self._stack.pop()
        self._keys.pop()
        anchor, before = self._open_anchors.pop()
        height = self._heights.pop() + 1
        self._grow(height)
        if anchor:
            self._anchors[anchor] = _Anchored(node, self._nodes - before + 1, height)

    def _alias(self, event: Any) -> bool:
        self._aliases += 1
        found = self._anchors.get(event.anchor)
        if found is None:
            inside = any(anchor == event.anchor for anchor, _ in self._open_anchors)
            what = f"'*{event.anchor}' stands inside its own anchor" if inside else f"no anchor '&{event.anchor}'"
            self._faults.add(_mark(event), what, "write the value out")
            self._place(Scalar(*_mark(event), "", None))
            return True
        self._aliased_nodes += found.nodes
        self._nodes += found.nodes
        if self._aliases > ALIASES_MAX or self._aliased_nodes > ALIASED_NODES_MAX:
            self._faults.add(
                _mark(event),
                f"aliases multiply the file beyond {ALIASES_MAX} aliases or {ALIASED_NODES_MAX} values",
                "write the values out",
            )
            return False
        if not self._reaches(len(self._stack) + found.height, event):
            return False
        self._grow(found.height)
        if not self._place(found.node):
            self._faults.add(_mark(event), "a key must be plain text", "write 'name: value'")
        return True

    def _place(self, node: Marked) -> bool:
        """Put a finished leaf or a just opened collection where it belongs; False: it cannot be there."""
        if not self._stack:
            self.root = node
            return True
        parent = self._stack[-1]
        if isinstance(parent, Listing):
            parent.items.append(node)
            return True
        key = self._keys[-1]
        if key is None:
            if not isinstance(node, Scalar):
                self._keys[-1] = Scalar(node.line, 0, "", None)  # already reported: column 0 keeps it from being again
                return False
            self._keys[-1] = node
            return True
        self._keys[-1] = None
        if key.value is None and key.text == "":
            if key.column:
                self._faults.add(key, "a key is empty", "write 'name: value'")
        elif key.text == "<<":
            self._faults.add(key, "merge keys ('<<') are not allowed", "use 'defaults:' or write the values out")
        elif key.text in parent.entries:
            first = parent.entries[key.text][0]
            self._faults.add(
                key, f"the key '{key.text}' is here twice", f"keep one (the first is on line {first.line})"
            )
        else:
            parent.entries[key.text] = (key, node)
        return True

    def _scalar(self, event: Any) -> Scalar:
        line, column = _mark(event)
        text: str = event.value
        tag = event.tag if event.tag != "!" else _STANDARD + "str"
        if tag is None and event.implicit[0]:
            return Scalar(line, column, text, self._resolve(text, (line, column)))
        if tag in (None, _STANDARD + "str"):
            return Scalar(line, column, text, text)
        value = self._resolve(text, (line, column))
        kinds = {"int": int, "float": (int, float), "bool": bool, "null": type(None)}
        kind = kinds.get(tag.removeprefix(_STANDARD))
        if kind is None:
            self._faults.add((line, column), f"the tag '{tag}' is not allowed", "remove it")
        elif not isinstance(value, kind):  # type: ignore[arg-type]
            self._faults.add((line, column), f"'{text}' is not what its tag '{tag}' says", "remove the tag")
        return Scalar(line, column, text, value)

    def _resolve(self, text: str, place: tuple[int, int]) -> bool | int | float | str | None:
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            if len(text) <= 24:
                base = {"0o": 8, "0x": 16}.get(text[:2], 10)
                number = int(text, base)
                if -(2**63) <= number < 2**64:
                    return number
            self._faults.add(place, "this integer has more than 64 bits", "put it in quotes to pass it as text")
            return 0
        if _FLOAT.fullmatch(text):
            real = float(text)
            if math.isfinite(real):
                return real
            self._faults.add(place, f"'{text}' is too large for a number", "put it in quotes to pass it as text")
            return 0.0
        if _INFINITE.fullmatch(text):
            self._faults.add(place, f"'{text}' is not a finite number", "leave it out or put it in quotes")
            return 0.0
        return text


def _mark(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _explain(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    """libyaml's words, and what to do about the mistakes people make most."""
    problem = error.problem or "this is not YAML"
    context = f" {error.context}" if error.context else ""
    if context and error.context_mark:
        context += f" begun on line {error.context_mark.line + 1}"
    if "cannot start any token" in problem:
        return f"{problem}{context}", "indent with spaces, not tabs, and put text with special characters in quotes"
    if "mapping values are not allowed" in problem:
        return problem, "put text that contains ': ' in quotes, and check the indentation"
    if "could not find expected ':'" in problem:
        return f"{problem}{context}", "write 'key: value', and check the line above"
    if "expected <block end>" in problem or "did not find expected" in problem:
        return f"{problem}{context}", "check the indentation and that every bracket and quote is closed"
    return f"{problem}{context}", "check brackets, quotes and indentation around here"
