"""Missions as events, and a fingerprint of everything a machine holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qaios.core import events as ev
from qaios.core.machine import _COLUMNS, Machine
from qaios.core.values import Decision, Shape

Edges = Sequence[tuple[int, int]]  # (who needs, who is needed)


def columns(
    names: Sequence[str],
    edges: Edges = (),
    *,
    shape: Sequence[int] | None = None,
    fallback: Mapping[int, str] | None = None,
) -> ev.TaskColumns:
    count = len(names)
    return ev.TaskColumns(
        names=ev.Blobs.of(name.encode() for name in names),
        shape=np.array(shape if shape is not None else [0] * count, np.int32),
        priority=np.full(count, 100, np.int32),
        deadline_s=np.full(count, np.inf),
        retries=np.full(count, 2, np.uint8),
        heads=np.array([head for head, _ in edges], np.int32),
        tails=np.array([tail for _, tail in edges], np.int32),
        fallback=dict(fallback or {}),
    )


def submitted(
    names: Sequence[str], edges: Edges = (), *, mission: str = "m-1", key: str = "", **more: Any
) -> ev.MissionSubmitted:
    return ev.MissionSubmitted(
        at_s=1.0, mission=mission, name=mission, goal="", owner="tests", key=key, seed=7, deadline_s=None,
        document=b"", shapes=(Shape("test.act", {}),), tasks=columns(names, edges, **more),
    )  # fmt: skip


def added(parent: int, names: Sequence[str], edges: Edges = (), *, repairs: bool = False, **more: Any) -> ev.TasksAdded:
    return ev.TasksAdded(
        at_s=2.0, parent=parent, repairs=repairs, replan_s=0.0, shapes=(Shape("test.act", {}),),
        tasks=columns(names, edges, **more),
    )  # fmt: skip


def placed(*ids: int, device: str = "d", effectful: bool = False) -> ev.TasksPlaced:
    count = len(ids)
    return ev.TasksPlaced(
        at_s=3.0, ids=ev.ids_of(*ids), devices=(device,), device=np.zeros(count, np.uint16),
        decisions=(Decision(),), decision=np.zeros(count, np.uint32), effectful=np.full(count, effectful), epoch=1,
    )  # fmt: skip


def finished(*ids: int, results: Sequence[bytes] | None = None) -> ev.TasksFinished:
    blobs = ev.Blobs.of(results if results is not None else [b"\x80"] * len(ids))
    return ev.TasksFinished(at_s=4.0, ids=ev.ids_of(*ids), results=blobs)


def fingerprint(machine: Machine) -> str:
    """Changes when anything in the machine does."""
    digest = hashlib.sha256()
    for name in _COLUMNS:
        digest.update(name.encode() + getattr(machine, name)[: machine.count].tobytes())
    for name in sorted(set(vars(machine)) - set(_COLUMNS)):
        digest.update(name.encode() + _plain(getattr(machine, name)).encode())
    return digest.hexdigest()


def _plain(value: Any) -> str:
    """Text that is equal for equal values, arrays and records included."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.tolist()}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_plain(key)}:{_plain(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (set, frozenset)):
        return "{" + ",".join(sorted(map(_plain, value))) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_plain, value)) + "]"
    fields = getattr(type(value), "__slots__", None) or getattr(value, "__struct_fields__", None)
    if fields and not isinstance(value, (str, bytes)):
        return f"{type(value).__name__}(" + ",".join(_plain(getattr(value, name)) for name in fields) + ")"
    return repr(value)
