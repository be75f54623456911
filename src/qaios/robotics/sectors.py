"""Sectors: the area as a small graph, for a quantum or classical optimiser to cut, and its answer as ground.

`cells` lays a grid of at most ten cells over the free region (ten qubits). A cell's load is the flying it takes
(metres of swath), an edge's weight the length of border two cells share (metres): a good cut gives every part
the same load and cuts little border, so vehicles seldom meet. `quantum.optimize` takes the result as it is
(`problem: sector-split`) and answers with the part of every cell; `shapes` turns that into polygons for
`coverage.split`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qaios.core.errors import Invalid
from qaios.robotics.geo import corners, polygons

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

CELLS_MAX = 10
POOR = 0.25  # a cell with less than this part of the usual ground joins its neighbour


def cells(region: BaseGeometry, *, width_m: float, count: int = 8) -> dict[str, Any]:
    """{"cells": [{"id", "load", "parts": [corners…]}…], "edges": [[i, j, metres]…]} over at most `count` cells."""
    if not 2 <= count <= CELLS_MAX:
        raise Invalid(f"{count} cells are not possible", hint=f"Give 2 to {CELLS_MAX}.")
    grounds = _merged(_grid(region, count))
    rows = [
        {
            "id": f"C{index}",
            "load": round(float(ground.area) / width_m, 3),
            "parts": [corners(part) for part in polygons(ground)],
        }
        for index, ground in enumerate(grounds)
    ]
    edges = [
        [i, j, round(border, 3)]
        for i in range(len(grounds))
        for j in range(i + 1, len(grounds))
        if (border := _border_m(grounds[i], grounds[j])) > 0.1
    ]
    return {"problem": "sector-split", "cells": rows, "edges": edges}


def shapes(cells: Sequence[Mapping[str, Any]], assignment: Sequence[int] | Mapping[str, int]) -> list[BaseGeometry]:
    """One geometry per part, in the order of the parts' numbers. Raises `Invalid` when the answer does not fit.

    `assignment` is the part of each cell: in the order of the cells, or by the id of each.
    """
    from shapely import unary_union
    from shapely.geometry import Polygon

    if isinstance(assignment, Mapping):
        assignment = [int(assignment[cell["id"]]) for cell in cells if cell["id"] in assignment]

    if len(assignment) != len(cells):
        raise Invalid(
            f"the split assigns {len(assignment)} cells, the area has {len(cells)}",
            hint="Optimise the cells of this very area.",
        )
    parts: dict[int, list[BaseGeometry]] = {}
    for cell, part in zip(cells, assignment, strict=True):
        parts.setdefault(int(part), []).extend(Polygon(ground) for ground in cell["parts"])
    return [unary_union(parts[part]) for part in sorted(parts)]


def _grid(region: BaseGeometry, count: int) -> list[BaseGeometry]:
    from shapely.geometry import box

    left, low, right, high = region.bounds
    width, height = right - left, high - low
    columns = min(
        (columns for columns in range(1, count + 1) if count % columns == 0),
        key=lambda columns: abs(math.log((width / columns) / (height / (count // columns)))),
    )
    rows = count // columns
    return [
        region.intersection(
            box(
                left + width * column / columns,
                low + height * row / rows,
                left + width * (column + 1) / columns,
                low + height * (row + 1) / rows,
            )
        )
        for row in range(rows)
        for column in range(columns)
    ]


def _merged(grounds: Sequence[BaseGeometry]) -> list[BaseGeometry]:
    """A cell that is mostly no-fly zone joins the neighbour with which it shares the most border."""
    kept = [ground for ground in grounds if not ground.is_empty]
    usual = sum(ground.area for ground in kept) / len(kept)
    while len(kept) > 2:
        poor = min(range(len(kept)), key=lambda i: (kept[i].area, i))
        if kept[poor].area >= POOR * usual:
            break
        ground = kept.pop(poor)
        near = max(range(len(kept)), key=lambda i: (_border_m(ground, kept[i]), -ground.distance(kept[i]), -i))
        kept[near] = kept[near].union(ground)
    return kept


def _border_m(one: BaseGeometry, other: BaseGeometry) -> float:
    # Borders are found through a hair's buffer, since rounding may part two cells by a fraction of a millimetre.
    shared = one.buffer(1e-3).intersection(other.buffer(1e-3))
    return float(shared.area) / 2e-3 if not shared.is_empty else 0.0
