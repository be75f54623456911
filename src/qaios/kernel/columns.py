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


def columns_of(specs: Sequence[TaskSpec], now_s: float) -> tuple[tuple[Shape, ...], TaskColumns]:
    """Raises `Invalid` when a task needs one that is not among these. Deadlines become times on the node's clock."""
    position = {spec.name: row for row, spec in enumerate(specs)}
    shapes: list[Shape] = []
    index: dict[bytes, int] = {}
    shape_of, heads, tails = [], [], []
    for row, spec in enumerate(specs):
        shape = Shape(spec.action, spec.arguments, spec.mode)
        text = msgspec.msgpack.encode(shape)
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
        deadline_s=np.array([np.inf if s.deadline_s is None else now_s + s.deadline_s for s in specs], np.float64),
        retries=np.array([spec.retries for spec in specs], np.uint8),
        heads=np.array(heads, np.int32),
        tails=np.array(tails, np.int32),
        fallback={row: spec.fallback for row, spec in enumerate(specs) if spec.fallback},
        device={row: spec.device for row, spec in enumerate(specs) if spec.device},
    )
