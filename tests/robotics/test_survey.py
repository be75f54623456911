"""The survey as a mission calls it: plain data through, tasks out, and only the unfinished part re-planned."""

from __future__ import annotations

import itertools
import json
from random import Random
from typing import Any

import pytest

from qaios.contracts import Berth
from qaios.core.errors import Invalid, Refused
from qaios.core.values import ActionSpec, DeviceSpec, TaskSpec
from qaios.robotics import survey
from qaios.robotics.geo import Origin
from qaios.robotics.repair import SurveyRepair

ORIGIN = Origin()
DRONES = [{"device": f"drone-{i + 1}", "home": [-9.0 + 6.0 * i, -66.0]} for i in range(4)]
OBSTACLES = {"obstacles": [{"corners": [[-41, 24], [-19, 24], [-19, 36], [-41, 36]]}]}


def box(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    return {"type": "Polygon", "coordinates": [[list(ORIGIN.place(*corner)) for corner in corners]]}


@pytest.fixture(scope="module")
def area() -> dict[str, Any]:
    return survey.area(
        {
            "type": "FeatureCollection",
            "features": [
                {"type": "Feature", "properties": {"kind": "area"}, "geometry": box(-60, -60, 60, 60)},
                {"type": "Feature", "properties": {"kind": "no-fly"}, "geometry": box(16, 14, 36, 34)},
            ],
        }
    )


@pytest.fixture(scope="module")
def plan(area: dict[str, Any]) -> dict[str, Any]:
    problem = survey.cells(area, OBSTACLES)
    assignment = [index % 4 for index in range(len(problem["cells"]))]
    return survey.swaths(area, [OBSTACLES], {"cells": problem, "assignment": assignment}, DRONES)


def test_a_plan_is_plain_data_and_the_same_each_time(area: dict[str, Any], plan: dict[str, Any]) -> None:
    problem = survey.cells(area, OBSTACLES)
    assignment = [index % 4 for index in range(len(problem["cells"]))]
    again = survey.swaths(area, [OBSTACLES], {"cells": problem, "assignment": assignment}, DRONES)
    assert json.dumps(again, sort_keys=True) == json.dumps(plan, sort_keys=True)


def test_every_swath_is_in_one_route_and_every_vehicle_stays_in_one_sector(plan: dict[str, Any]) -> None:
    flown = [leg["id"] for route in plan["routes"].values() for leg in route]
    assert sorted(flown) == sorted(swath["id"] for swath in plan["swaths"])
    for route in plan["routes"].values():
        assert len({leg["sector"] for leg in route}) == 1


def test_every_vehicle_has_its_own_shelf(plan: dict[str, Any]) -> None:
    heights = sorted(plan["frame"]["shelves"].values())
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 3.0


def test_the_fence_holds_homes_and_area_and_leaves_the_zones_out(plan: dict[str, Any]) -> None:
    fence = plan["frame"]["fence"]
    assert len(fence["exclusions"]) == 1
    assert min(y for _, y in fence["inclusion"]) <= -66.0 - 15.0


def test_flying_spawns_one_pinned_survey_per_vehicle(plan: dict[str, Any]) -> None:
    result = survey.fly(plan, priority=5)
    assert [task.device for task in result.spawn] == [drone["device"] for drone in DRONES]
    assert all(task.action == "drone.survey" and task.priority == 5 for task in result.spawn)
    assert result.value["swaths_planned"] == sum(len(task.arguments["swaths"]) for task in result.spawn)


def berth(name: str, *actions: str) -> Berth:
    spec = DeviceSpec(name, "mavlink", "drone", tuple(ActionSpec(action, "") for action in actions))
    return Berth(spec, 1, 1)


FLEET = [berth(f"drone-{i}", "drone.survey") for i in (1, 3, 4)] + [berth("gate", "air.read")]


def ids(tasks: Any) -> list[str]:
    return sorted(swath["id"] for task in surveys(tasks) for swath in task.arguments["swaths"])


def surveys(tasks: Any) -> list[TaskSpec]:
    return [task for task in tasks if task.action == "drone.survey"]


async def test_only_the_unfinished_swaths_are_planned_again(plan: dict[str, Any]) -> None:
    lost = survey.fly(plan).spawn[1]
    every = [swath["id"] for swath in lost.arguments["swaths"]]
    chunks: list[dict[str, Any]] = [{"swath": every[0]}, {"samples": [[1.0]]}, {"swath": every[1]}]

    tasks = await SurveyRepair().repair(lost, chunks, FLEET, Random(1))

    assert ids(tasks) == sorted(every[2:])
    assert {task.device for task in surveys(tasks)} <= {"drone-1", "drone-3", "drone-4"}
    assert all(task.arguments["altitude_m"] == plan["frame"]["shelves"][task.device] for task in surveys(tasks))


async def test_what_the_lost_vehicle_had_brought_is_kept(plan: dict[str, Any]) -> None:
    lost = survey.fly(plan).spawn[1]
    every = [swath["id"] for swath in lost.arguments["swaths"]]
    row = [1.0, 0.0, 0.0, 20.0, 9.0, 1.5]
    chunks: list[dict[str, Any]] = [{"swath": every[0]}, {"samples": [row]}, {"lost": {"lost_s": 5.0}}]

    kept, *flights = await SurveyRepair().repair(lost, chunks, FLEET, Random(1))

    assert (kept.action, kept.arguments["call"]) == ("compute.call", "qaios.robotics.survey:salvage")
    found = survey.salvage(kept.arguments["args"][0])
    assert (found["flown"], found["samples"]) == ([every[0]], [row])
    again = survey.collect([found, {"flown": ids(flights), "samples": []}], plan)
    assert set(every) <= set(again["flown"])
    assert [lost["vehicle"] for lost in again["lost"]] == ["drone-2"]


async def test_a_repair_can_be_repaired(plan: dict[str, Any]) -> None:
    lost = survey.fly(plan).spawn[1]
    first = await SurveyRepair().repair(lost, [], FLEET, Random(1))
    second = await SurveyRepair().repair(first[0], [], [FLEET[2]], Random(1))
    assert ids(second) == ids([first[0]])
    assert len({task.name for task in (lost, *first, *second)}) == 2 + len(first)


async def test_a_flight_that_had_flown_everything_needs_no_repair(plan: dict[str, Any]) -> None:
    lost = survey.fly(plan).spawn[0]
    chunks = [{"swath": swath["id"]} for swath in lost.arguments["swaths"]]
    (kept,) = await SurveyRepair().repair(lost, chunks, FLEET, Random(1))
    assert kept.action == "compute.call"


async def test_without_another_vehicle_the_repair_is_refused(plan: dict[str, Any]) -> None:
    lost: TaskSpec = survey.fly(plan).spawn[1]
    with pytest.raises(Refused, match="no other vehicle"):
        await SurveyRepair().repair(lost, [], [berth("drone-2", "drone.survey")], Random(1))


async def test_a_vehicle_new_to_the_plan_gets_a_shelf_above_all_others(plan: dict[str, Any]) -> None:
    lost = survey.fly(plan).spawn[1]
    tasks = await SurveyRepair().repair(lost, [], [berth("drone-9", "drone.survey")], Random(1))
    assert tasks[0].arguments["altitude_m"] > max(plan["frame"]["shelves"].values())


def test_collecting_joins_flights_and_names_what_is_missing(plan: dict[str, Any]) -> None:
    swaths = [swath["id"] for swath in plan["swaths"]]
    flights = [
        {"flown": swaths[1:4], "samples": [[2.0, 0, 0, 20, 9.0, 1.0]], "min_battery_fraction": 0.6, "distance_m": 9.0},
        {"flown": swaths[4:], "samples": [[1.0, 0, 0, 20, 8.0, 1.0]], "min_battery_fraction": 0.5, "distance_m": 5.0},
    ]
    whole = survey.collect(flights, plan)
    assert whole["missing"] == [swaths[0]]
    assert [row[0] for row in whole["samples"]] == [1.0, 2.0]
    assert whole["metrics"]["min_battery_fraction"] == 0.5
    assert whole["metrics"]["swaths_flown"] == whole["metrics"]["swaths_planned"] - 1


@pytest.mark.parametrize("obstacles", ["a wall", [["x", 1]], 7, {"walls": []}])
def test_what_is_no_obstacle_is_refused(obstacles: Any) -> None:
    with pytest.raises(Invalid, match="describes no obstacle"):
        survey.solids(obstacles)


def test_a_plan_needs_vehicles_and_a_known_ending(area: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="without vehicles"):
        survey.swaths(area)
    with pytest.raises(Invalid, match="goes home or holds"):
        survey.swaths(area, vehicles=DRONES, then="dance")


def test_what_the_lidar_saw_of_a_mapped_building_is_that_building_so_that_ragged_outlines_change_no_plan() -> None:
    school = {
        "type": "Feature",
        "properties": {"kind": "building", "height_m": 14.5},
        "geometry": box(-41, 24, -19, 36),
    }
    low = {"type": "Feature", "properties": {"kind": "building", "height_m": 6}, "geometry": box(-18, -38, -2, -30)}
    ground = {"type": "Feature", "properties": {"kind": "area"}, "geometry": box(-60, -60, 60, 60)}
    area = survey.area({"type": "FeatureCollection", "features": [ground, school, low]})
    plans = []
    for raggedness_m in (0.0, 0.5, 1.5):
        seen = {
            "corners": [[-39.5 - raggedness_m, 23.5], [-18.0, 23.0 - raggedness_m / 3], [-18.5, 25.0], [-39.5, 25.5]]
        }
        plans.append(survey.swaths(area, {"obstacles": [seen]}, None, DRONES, altitude_m=10.0))
    assert plans[0] == plans[1] == plans[2]
    assert plans[0]["obstacles"] == [[[-41.0, 24.0], [-19.0, 24.0], [-19.0, 36.0], [-41.0, 36.0]]]
    assert plans[0]["unmapped"] == []


def test_what_no_map_knows_counts_as_it_was_seen(area: dict[str, Any]) -> None:
    crane = [[10.0, -40.0], [14.0, -40.0], [14.0, -36.0], [10.0, -36.0]]
    plan = survey.swaths(area, {"obstacles": [{"corners": crane}]}, None, DRONES)
    assert plan["unmapped"] == plan["obstacles"] == [crane]


def test_every_figure_is_a_number() -> None:
    collected = {"metrics": {"swaths_planned": 2, "swaths_flown": 2}, "samples": [[1.0, 0.0, 0.0, 12.0, 9.0]]}
    fits = {"plume_error": 0.4, "baseline_error": 0.5}, {"cost": 2.0, "optimal_cost": 2.0}
    drill = {"vehicle": "drone-2", "after_s": 40.5, "killed_s": 1e9}
    figures = survey.figures(collected, *fits, {"min_separation_m": 4.0, "vehicles": []}, drill)
    assert all(type(value) in (int, float) for value in figures.values()), figures
    assert figures["killed_after_s"] == 40.5
