"""Repair of a survey: what a lost vehicle left undone, shared over those that are still there.

The kernel calls `SurveyRepair.repair` when the ladder of failure can do no more for a `drone.survey`. The task
carries its whole frame (zones, shelves, homes, budget) and its attempt emitted `{"swath": id}` for every swath
flown and `{"samples": rows}` for the air it measured, so nothing else needs asking:

    <lost>-salvage     keeps what the lost vehicle had brought: a flight's result without a flight
    <lost>-by-<drone>  flies swaths that were not flown, on that vehicle's own altitude shelf

The new surveys can be repaired in turn. A swath broken off in the middle is flown again whole. Routing runs in a
thread with a small work limit: well under a second for thirty swaths.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

from qaios.contracts import Berth
from qaios.core.errors import Refused
from qaios.core.values import TaskSpec
from qaios.robotics import routing, survey
from qaios.robotics.coverage import Swath
from qaios.robotics.legs import Passage

WORK = 120  # solutions the router may look at: a vehicle that hangs in the air waits for this


class SurveyRepair:
    """A `contracts.Planner` for `drone.survey`."""

    name: ClassVar[str] = "survey-repair"
    actions: ClassVar[frozenset[str]] = frozenset({"drone.survey"})

    async def repair(
        self, lost: TaskSpec, chunks: Sequence[Mapping[str, Any]], fleet: Sequence[Berth], random: Random
    ) -> Sequence[TaskSpec]:
        """What it brought, kept, and surveys of exactly the swaths it had not flown. Raises `Refused`."""
        flown = [str(chunk["swath"]) for chunk in chunks if "swath" in chunk]
        left = [swath for swath in lost.arguments["swaths"] if str(swath["id"]) not in flown]
        kept = salvage_task(lost, flown, [row for chunk in chunks for row in chunk.get("samples", ())])
        if not left:
            return kept
        others = [
            berth
            for berth in fleet
            if berth.spec.name != lost.device and not berth.hopeless and berth.spec.action(lost.action)
        ]
        names = [berth.spec.name for berth in others if not berth.unusable] or [berth.spec.name for berth in others]
        if not names:
            raise Refused(f"{len(left)} swaths of {lost.name} are unflown and no other vehicle is open")
        return kept + await asyncio.to_thread(replan, lost, left, names)


def salvage_task(lost: TaskSpec, flown: Sequence[str], samples: Sequence[Sequence[float]]) -> tuple[TaskSpec, ...]:
    """The task whose result is what the lost flight had already brought; none when that is nothing."""
    if not flown and not samples:
        return ()
    found = {"device": lost.device, "flown": list(flown), "samples": [list(row) for row in samples], "salvaged": True}
    arguments = {"call": "qaios.robotics.survey:salvage", "args": [found]}
    return (TaskSpec(f"{lost.name}-salvage", "compute.call", arguments, priority=lost.priority),)


def replan(lost: TaskSpec, left: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[TaskSpec, ...]:
    """Surveys of `left` by the vehicles `names`. Pure; raises `Refused` when their budgets do not suffice."""
    frame = _with_shelves(lost.arguments["frame"], names)
    crafts = [
        routing.Craft(name, _home(frame, name), _home(frame, name), float(frame["budget_s"])) for name in sorted(names)
    ]
    routes = routing.route(
        [Swath.read(swath) for swath in left],
        crafts,
        Passage(frame["zones"]),
        speed_mps=float(frame["speed_mps"]),
        turn_s=float(frame["turn_s"]),
        work=WORK,
    )
    return tuple(
        survey.survey_task(f"{lost.name}-by-{name}", name, [leg.plain() for leg in legs], frame, priority=lost.priority)
        for name, legs in routes.legs.items()
        if legs
    )


def _with_shelves(frame: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A vehicle that was not in the first plan gets the next shelf above all others."""
    shelves = dict(frame["shelves"])
    for name in sorted(set(names) - set(shelves)):
        shelves[name] = max(shelves.values()) + float(frame["shelf_m"])
    return {**frame, "shelves": shelves}


def _home(frame: Mapping[str, Any], name: str) -> tuple[float, float]:
    east, north = frame["homes"].get(name, (0.0, 0.0))
    return float(east), float(north)
