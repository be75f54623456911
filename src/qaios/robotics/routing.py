"""Routing: which vehicle flies which swaths, in which order, in which direction.

A swath is a pair of nodes, one per direction, of which exactly one is visited; vehicles start and end at their
own places; flying time is a dimension bounded by each vehicle's budget; the span (the last vehicle home) costs
extra, so work is shared. OR-Tools' routing solver does guided local search and stops after a number of solutions,
never after a time, so the same question has the same answer on a slow machine and a fast one.

Called by `robotics.survey` (the plan) and `robotics.repair` (what a lost vehicle left).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qaios.core.errors import Refused
from qaios.robotics.coverage import Swath
from qaios.robotics.geo import XY
from qaios.robotics.legs import Passage

TICKS_PER_SECOND = 10  # the solver counts in integers
SPAN_COST = 20  # how much the last vehicle home weighs against the sum of all flying (robotics notes: 20)
FAR_S = 1e6


@dataclass(frozen=True, slots=True)
class Craft:
    """A vehicle as routing sees it."""

    name: str
    start: XY
    end: XY
    budget_s: float  # flying time it may use, its reserve already taken off
    sectors: frozenset[int] | None = None  # the sectors it may fly; None: any


@dataclass(frozen=True, slots=True)
class Leg:
    """One swath in the direction it is flown, and where to turn on the way to its start."""

    swath: Swath
    via: tuple[tuple[float, float], ...] = ()

    def plain(self) -> dict[str, Any]:
        document = self.swath.plain()
        return document | {"via": [list(turn) for turn in self.via]}


@dataclass(frozen=True, slots=True)
class Routes:
    legs: Mapping[str, tuple[Leg, ...]]  # per vehicle, in the order flown
    duration_s: Mapping[str, float]  # from its start over all its swaths to its end
    work: int = field(default=0)  # solutions looked at


def route(
    swaths: Sequence[Swath],
    crafts: Sequence[Craft],
    passage: Passage,
    *,
    speed_mps: float,
    turn_s: float,
    work: int = 300,
) -> Routes:
    """Share `swaths` over `crafts`. Raises `Refused` when the budgets do not allow all of them."""
    if not swaths:
        return Routes({craft.name: () for craft in crafts}, {craft.name: 0.0 for craft in crafts})
    if not crafts:
        raise Refused(f"no vehicle is left for {len(swaths)} swaths", hint="Add a vehicle or shrink the area.")
    points = [point for swath in swaths for point in (swath.start, swath.end)]
    points += [craft.start for craft in crafts] + [craft.end for craft in crafts]
    paths = passage.paths(points)
    times_s = _times_s(swaths, paths.lengths_m, len(crafts), speed_mps, turn_s)
    limit = max(60, min(work, 6000 // len(swaths)))
    visits = _solve(swaths, crafts, times_s, limit)
    legs, durations = {}, {}
    for index, craft in enumerate(crafts):
        at, total_s, flown = 2 * len(swaths) + index, 0.0, []
        for node in visits[index]:
            swath = swaths[node // 2]
            turns = tuple((turn[0], turn[1]) for turn in paths.via(_exit(at, len(swaths)), node))
            directed = Swath(swath.id, swath.end, swath.start, swath.sector) if node % 2 else swath
            flown.append(Leg(directed, turns))
            total_s, at = total_s + float(times_s[at, node]), node
        home = 2 * len(swaths) + len(crafts) + index
        legs[craft.name] = tuple(flown)
        durations[craft.name] = round(total_s + float(times_s[at, home]), 1) if flown else 0.0
    return Routes(legs, durations, limit)


def _exit(node: int, swaths: int) -> int:
    """The point where a visit of `node` ends: the other end of its swath; a vehicle's start is itself."""
    return node ^ 1 if node < 2 * swaths else node


def _times_s(
    swaths: Sequence[Swath], lengths_m: NDArray[np.float64], crafts: int, speed_mps: float, turn_s: float
) -> NDArray[np.float64]:
    """Seconds from finishing node i to finishing node j: the way to its entry, the turn, the swath itself."""
    leaving = [_exit(node, len(swaths)) for node in range(2 * len(swaths) + 2 * crafts)]
    way_s = lengths_m[np.array(leaving)] / speed_mps
    swath_s = np.array([swath.length_m / speed_mps + 2.0 * turn_s for swath in swaths for _ in (0, 1)])
    way_s[:, : 2 * len(swaths)] += swath_s
    return np.where(np.isfinite(way_s), way_s, FAR_S)


def _solve(
    swaths: Sequence[Swath], crafts: Sequence[Craft], times_s: NDArray[np.float64], limit: int
) -> list[list[int]]:
    """Nodes visited per vehicle."""
    from ortools.constraint_solver import pywrapcp, routing_enums_pb2

    count, first = len(crafts), 2 * len(swaths)
    index = pywrapcp.RoutingIndexManager(
        first + 2 * count, count, list(range(first, first + count)), list(range(first + count, first + 2 * count))
    )
    model = pywrapcp.RoutingModel(index)
    ticks = np.rint(times_s * TICKS_PER_SECOND).astype(np.int64)
    transit = model.RegisterTransitMatrix(ticks.tolist())
    model.SetArcCostEvaluatorOfAllVehicles(transit)
    budgets = [max(0, math.floor(craft.budget_s * TICKS_PER_SECOND)) for craft in crafts]
    model.AddDimensionWithVehicleCapacity(transit, 0, budgets, True, "time")
    model.GetDimensionOrDie("time").SetGlobalSpanCostCoefficient(SPAN_COST)
    for number, swath in enumerate(swaths):
        pair = [index.NodeToIndex(2 * number), index.NodeToIndex(2 * number + 1)]
        model.AddDisjunction(pair)
        allowed = [i for i, craft in enumerate(crafts) if craft.sectors is None or swath.sector in craft.sectors]
        if not allowed:
            raise Refused(f"no vehicle may fly sector {swath.sector}", hint="Give every sector a vehicle.")
        if len(allowed) < count:
            for node in pair:
                model.VehicleVar(node).SetValues([-1, *allowed])
    search = pywrapcp.DefaultRoutingSearchParameters()
    search.first_solution_strategy = routing_enums_pb2.FirstSolutionStrategy.PARALLEL_CHEAPEST_INSERTION
    search.local_search_metaheuristic = routing_enums_pb2.LocalSearchMetaheuristic.GUIDED_LOCAL_SEARCH
    search.solution_limit = limit
    solution = model.SolveWithParameters(search)
    if solution is None:
        raise Refused(
            f"{len(swaths)} swaths do not fit into the budgets of {count} vehicles "
            f"({', '.join(f'{craft.name} {craft.budget_s:.0f} s' for craft in crafts)})",
            hint="Raise the budget or the width, fly faster, or add a vehicle.",
        )
    visits = []
    for vehicle in range(count):
        at, nodes = model.Start(vehicle), []
        while not model.IsEnd(at := solution.Value(model.NextVar(at))):
            nodes.append(index.IndexToNode(at))
        visits.append(nodes)
    return visits
