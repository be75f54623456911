"""Task specs as the columns of an event: the last place where a task is an object.

Tasks whose action, arguments and mode are equal share one shape; names travel as one blob.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from qaios.core.errors import Invalid
from qaios.core.events import Blobs, TaskColumns
from qaios.core.values import Shape, TaskSpec

_RETRIES_MAX = 255
_PRIORITY_MAX = 1_000_000_000


def columns_of(
    specs: Sequence[TaskSpec], submitted_s: float, latest_s: float = np.inf
) -> tuple[tuple[Shape, ...], TaskColumns]:
    """Deadlines become times on the node's clock; none is later than `latest_s`, the mission's own.

    Raises `Invalid` when a task needs one that is not among these, or holds what no journal can keep.
    """
    position = {spec.name: row for row, spec in enumerate(specs)}
    shapes: list[Shape] = []
    index: dict[bytes, int] = {}
    shape_of, heads, tails = [], [], []
    for row, spec in enumerate(specs):
        shape = Shape(spec.action, spec.arguments, spec.mode)
        text = _encoded(spec, shape)
        if text not in index:
            index[text] = len(shapes)
            shapes.append(shape)
        shape_of.append(index[text])
        for need in dict.fromkeys(spec.needs):
            if need not in position:
                raise Invalid(f"task {spec.name} needs {need}, which is not one of these tasks")
            heads.append(row)
            tails.append(position[need])
    return tuple(shapes), TaskColumns(
        names=Blobs.of(spec.name.encode() for spec in specs),
        shape=np.array(shape_of, np.int32),
        priority=np.array([spec.priority for spec in specs], np.int32),
        deadline_s=np.array(
            [latest_s if s.deadline_s is None else min(latest_s, submitted_s + s.deadline_s) for s in specs], np.float64
        ),
        retries=np.array([spec.retries for spec in specs], np.uint8),
        heads=np.array(heads, np.int32),
        tails=np.array(tails, np.int32),
        fallback={row: spec.fallback for row, spec in enumerate(specs) if spec.fallback},
        device={row: spec.device for row, spec in enumerate(specs) if spec.device},
    )


def _encoded(spec: TaskSpec, shape: Shape) -> bytes:
    """The shape as bytes: what makes two shapes one, and the proof that it can be journaled."""
    if not 0 <= spec.retries <= _RETRIES_MAX:
        raise Invalid(f"task {spec.name}: retries are 0..{_RETRIES_MAX}, not {spec.retries}")
    if abs(spec.priority) > _PRIORITY_MAX:
        raise Invalid(f"task {spec.name}: a priority is within ±{_PRIORITY_MAX}, not {spec.priority}")
    try:
        return msgspec.msgpack.encode(shape)
    except (TypeError, ValueError, OverflowError) as error:
        raise Invalid(f"task {spec.name}: its arguments are not plain data: {error}") from error
