"""What a task's arguments refer to, put in their place.

An argument that is exactly "${task}" becomes the whole value of that task; "${task.a.b}" a part of it;
"${task.*.a}" the list of that part over every task that `task` spawned, repairs included, in name order, those
that ended without a result left out. A reference inside a longer text is replaced by its text.
The mission checker judges references with `WRITTEN` and `PATH`, the kernel resolves them just before an attempt, and
a device that estimates before that asks `refers` and `is_reference` what it cannot know yet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from qaios.core.errors import DeviceFault

WRITTEN = re.compile(r"\$\{([^{}]*)\}")  # whatever was meant as one
PATH = re.compile(r"[A-Za-z0-9_\-]+(\.\*)?(\.[A-Za-z0-9_\-]+)*")  # what may stand inside
# Wider than PATH on purpose: a star in the wrong place fails in its task, it does not travel as text.
REFERENCE = re.compile(r"\$\{([A-Za-z0-9_\-]+)((?:\.[A-Za-z0-9_\-*]+)*)\}")

Lookup = Callable[[str], Any]
Spawned = Callable[[str], Sequence[Any]]


def references(arguments: Any) -> Iterator[str]:
    """The task names that these arguments mention, in order of appearance, repeats included."""
    if isinstance(arguments, str):
        yield from (match.group(1) for match in REFERENCE.finditer(arguments))
    elif isinstance(arguments, Mapping):
        for value in arguments.values():
            yield from references(value)
    elif isinstance(arguments, (list, tuple)):
        for value in arguments:
            yield from references(value)


def refers(value: Any) -> bool:
    """Whether a text in it, at any depth, refers to a result that is not there yet."""
    if isinstance(value, str):
        return "${" in value
    if isinstance(value, Mapping):
        return any(map(refers, value.values()))
    return isinstance(value, (list, tuple)) and any(map(refers, value))


def is_reference(value: Any) -> bool:
    """Whether it is one reference and nothing else, which may become a value of any type."""
    return isinstance(value, str) and REFERENCE.fullmatch(value) is not None


def resolve(arguments: Any, lookup: Lookup, spawned: Spawned) -> Any:
    """`lookup(name)` gives a task's value, `spawned(name)` the values of the tasks it spawned.

    Raises `DeviceFault` (not retryable) naming the part that a result does not have; `lookup` may raise it as well.
    """
    if isinstance(arguments, str):
        whole = REFERENCE.fullmatch(arguments)
        if whole:
            return _value(whole, lookup, spawned)
        return REFERENCE.sub(lambda match: str(_value(match, lookup, spawned)), arguments)
    if isinstance(arguments, Mapping):
        return {key: resolve(value, lookup, spawned) for key, value in arguments.items()}
    if isinstance(arguments, (list, tuple)):
        return [resolve(value, lookup, spawned) for value in arguments]
    return arguments


def _value(match: re.Match[str], lookup: Lookup, spawned: Spawned) -> Any:
    name, path = match.group(1), [part for part in match.group(2).split(".") if part]
    if path and path[0] == "*":
        return [_part(value, path[1:], match.group(0)) for value in spawned(name)]
    return _part(lookup(name), path, match.group(0))


def _part(value: Any, path: Sequence[str], text: str) -> Any:
    for step in path:
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, (list, tuple)) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            has = ", ".join(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            raise DeviceFault(f"{text}: there is no {step!r}; the result has {has}", retryable=False)
    return value
