"""A vehicle keeps itself safe, with nobody's help."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from qaios.core.errors import Conflict, Invalid
from qaios.robotics.vehicle.plan import Circle, Command, FlightMode, Item, MissionState, Polygon
from qaios.worlds.scene import Building, default_scene
from tests.robotics.flying import Flight, Ground, calm_scene

NO_FLY = ((-20.0, -40.0), (20.0, -40.0), (20.0, -20.0), (-20.0, -20.0))


def square_m(half: float) -> tuple[tuple[float, float], ...]:
    return ((-half, -half), (half, -half), (half, half), (-half, half))


# -- fence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("course", [(0.0, -5.0), (5.0, -3.0)])
def test_a_vehicle_driven_at_the_fence_turns_back_before_it_and_lands_at_home(course: tuple[float, float]) -> None:
    flight = Flight(default_scene(), seed=3)
    flight.lift(30.0)
    pilot, home = flight.pilots[0], flight.place()
    fence = Polygon(flight.scene.fence_m, inclusion=True)
    places = []

    def push() -> None:
        pilot.offboard(None, (*course, 0.0))
        places.append(flight.place())

    push()
    pilot.start_offboard()
    flight.fly(20.0, push)
    flight.until(lambda: not pilot.armed)
    assert flight.said("geofence")
    assert all(fence.holds(place[:2]) for place in places)
    assert math.dist(flight.place()[:2], home[:2]) < 1.5


def test_a_vehicle_driven_at_the_ceiling_does_not_pass_it() -> None:
    flight = Flight(calm_scene())
    flight.lift(20.0)
    pilot, highest = flight.pilots[0], []

    def push() -> None:
        pilot.offboard(None, (0.0, 0.0, 2.5))
        highest.append(flight.place()[2])

    push()
    pilot.start_offboard()
    flight.fly(13.0, push)
    assert flight.said("ceiling")
    assert max(highest) < flight.scene.ceiling_m
    assert pilot.mode in (FlightMode.RTL, FlightMode.LAND)


def test_it_flies_around_a_no_fly_zone_on_its_way_and_on_its_way_home() -> None:
    flight = Flight(calm_scene())
    flight.forbid(0, NO_FLY)
    zone = Polygon(NO_FLY, inclusion=False)
    flight.lift(10.0)
    pilot, inside = flight.pilots[0], []

    def watch() -> None:
        inside.append(zone.holds(flight.place()[:2]))

    pilot.goto((0.0, -10.0, 10.0))
    flight.fly(30.0, watch)
    assert math.dist(flight.place()[:2], (0.0, -10.0)) < 1.0
    pilot.rtl()
    while pilot.armed:
        flight.fly(1.0, watch)
        assert flight.fleet.t_s < 200.0
    assert not any(inside)
    assert not flight.said("geofence")


def test_a_target_or_mission_in_a_no_fly_zone_is_refused() -> None:
    flight = Flight(calm_scene())
    flight.forbid(0, NO_FLY)
    flight.lift(10.0)
    with pytest.raises(Invalid, match="no-fly"):
        flight.pilots[0].goto((0.0, -30.0, 10.0))
    with pytest.raises(Invalid, match="outside the fence"):
        flight.pilots[0].goto((500.0, 0.0, 10.0))
    flight.pilots[0].load([Item(Command.WAYPOINT, (0.0, -30.0, 10.0))], 5)
    with pytest.raises(Invalid, match="item 0"):
        flight.pilots[0].start_mission()


def test_an_uploaded_inclusion_circle_is_kept() -> None:
    flight = Flight(calm_scene())
    pilot = flight.pilots[0]
    pilot.fence = replace(pilot.fence, zones=(Circle((-9.0, -66.0), 20.0, inclusion=True),))
    flight.lift(10.0)
    furthest = []

    def push() -> None:
        pilot.offboard(None, (0.0, 5.0, 0.0))
        furthest.append(math.dist(flight.place()[:2], (-9.0, -66.0)))

    push()
    pilot.start_offboard()
    flight.fly(15.0, push)
    assert flight.said("uploaded fence")
    assert max(furthest) < 20.0


def test_a_vehicle_that_finds_itself_in_a_new_no_fly_zone_leaves_it() -> None:
    flight = Flight(calm_scene())
    flight.lift(10.0)
    flight.pilots[0].goto((0.0, -45.0, 10.0))
    flight.fly(14.0)
    flight.forbid(0, ((-10.0, -50.0), (10.0, -50.0), (10.0, -40.0), (-10.0, -40.0)))
    flight.fly(0.1)
    assert flight.pilots[0].mode is FlightMode.RTL
    flight.until(lambda: not flight.pilots[0].armed)
    assert math.dist(flight.place()[:2], flight.scene.pads_m[0]) < 1.0


# -- link -------------------------------------------------------------------------------------------------------


def test_when_the_ground_station_falls_silent_it_returns_and_lands() -> None:
    flight = Flight(default_scene(), seed=4)
    ground = Ground(flight)
    flight.lift(12.0)
    pilot = flight.pilots[0]
    pilot.goto((-9.0, -55.0, 12.0))
    for second in range(7):
        ground.heartbeat()
        flight.fly(1.0)
        assert flight.pilots[0].mode is FlightMode.HOLD, second
    flight.fly(3.8)
    assert flight.pilots[0].mode is FlightMode.HOLD
    flight.fly(0.4)
    assert flight.pilots[0].mode.name == "RTL"
    assert flight.said("link lost")
    flight.until(lambda: not pilot.armed)
    assert math.dist(flight.place()[:2], flight.scene.pads_m[0]) < 1.5


def test_a_vehicle_that_never_heard_a_ground_station_has_no_link_to_lose() -> None:
    flight = Flight(calm_scene())
    flight.lift(10.0)
    flight.fly(6.0)
    assert flight.pilots[0].mode is FlightMode.HOLD


def test_the_time_without_link_is_a_parameter() -> None:
    flight = Flight(calm_scene())
    flight.pilots[0].parameters.set("COM_DL_LOSS_T", 2.0)
    flight.pilots[0].watch.heard(flight.fleet.t_s)
    flight.pilots[0].arm()
    flight.pilots[0].takeoff(6.0)
    took = flight.until(lambda: flight.pilots[0].mode in (FlightMode.RTL, FlightMode.LAND))
    assert took < 3.0
    with pytest.raises(Invalid, match="allowed"):
        flight.pilots[0].parameters.set("COM_DL_LOSS_T", math.nan)


# -- battery ----------------------------------------------------------------------------------------------------


def drained(flight: Flight, fraction: float) -> None:
    """Set the battery of drone 1."""
    flight.fleet.batteries.used_j[0] = (1.0 - fraction) * flight.fleet.batteries.capacity_j


def test_a_low_battery_sends_it_home_and_it_does_not_take_other_orders() -> None:
    flight = Flight(calm_scene())
    flight.lift(10.0)
    flight.pilots[0].goto((-9.0, -30.0, 10.0))
    flight.fly(10.0)
    drained(flight, 0.19)
    flight.fly(0.2)
    assert flight.pilots[0].mode is FlightMode.RTL
    assert flight.said("battery 19%")
    with pytest.raises(Conflict, match="safety"):
        flight.pilots[0].goto((0.0, 0.0, 10.0))
    with pytest.raises(Conflict, match="safety"):
        flight.pilots[0].hold()
    flight.until(lambda: not flight.pilots[0].armed)
    assert math.dist(flight.place()[:2], flight.scene.pads_m[0]) < 1.0
    with pytest.raises(Conflict, match="battery"):
        flight.pilots[0].arm()


def test_a_nearly_empty_battery_lands_it_where_it_is() -> None:
    flight = Flight(calm_scene())
    flight.lift(8.0)
    flight.pilots[0].goto((-9.0, -40.0, 8.0))
    flight.fly(15.0)
    drained(flight, 0.07)
    flight.until(lambda: not flight.pilots[0].armed, 40.0)
    assert math.dist(flight.place()[:2], (-9.0, -40.0)) < 2.0
    assert flight.fleet.ledger.contacts[0] == 0


# -- tilt -------------------------------------------------------------------------------------------------------


def test_pinned_on_its_side_it_stops_its_motors() -> None:
    flight = Flight(calm_scene())
    flight.lift(10.0)
    sense = flight.fleet.sense(0)
    pilot = flight.pilots[0]
    for barrier in range(40):
        pilot.step(
            msgspec.structs.replace(sense, attitude_rad=(math.radians(80), 0.0, 0.0), t_s=sense.t_s + 0.04 * barrier)
        )
    assert not pilot.armed


# -- obstacles --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height", [9.0, 20.0, 30.0])
def test_it_climbs_over_a_building_in_its_way_and_touches_nothing(height: float) -> None:
    wall = Building("wall", -9.0, -35.0, 20.0, 8.0, height)
    scene = msgspec.structs.replace(default_scene(), buildings=(wall,))
    flight = Flight(scene, seed=2)
    flight.lift(8.0)
    pilot = flight.pilots[0]
    pilot.load([Item(Command.WAYPOINT, (-9.0, -10.0, 8.0))], 1)
    pilot.start_mission()
    flight.until(lambda: pilot.mission is MissionState.COMPLETE, 90.0)
    assert flight.said("obstacle")
    assert flight.fleet.ledger.contacts[0] == 0
    flight.until(lambda: abs(flight.place()[2] - 8.0) < 1.0, 15.0)


def test_before_a_wall_higher_than_the_ceiling_it_stays() -> None:
    wall = Building("wall", -9.0, -35.0, 150.0, 8.0, 80.0)
    flight = Flight(msgspec.structs.replace(default_scene(), buildings=(wall,)), seed=2)
    flight.lift(8.0)
    flight.pilots[0].goto((-9.0, -10.0, 8.0))
    flight.fly(35.0)
    _, north, up = flight.place()
    assert north < -39.0
    assert flight.pilots[0].mode is FlightMode.HOLD
    assert not flight.said("geofence")
    assert up < flight.scene.ceiling_m
    assert flight.fleet.ledger.contacts[0] == 0


def test_drones_are_no_obstacles_to_each_others_lidar() -> None:
    flight = Flight(calm_scene(), count=4)
    flight.lift(10.0)
    assert min(flight.fleet.sense(1).lidar_m) == 20.0


# -- separation -------------------------------------------------------------------------------------------------

MEETINGS = {
    "head-on": [((-25.0, 0.0), (25.0, 0.0)), ((25.0, 0.0), (-25.0, 0.0))],
    "crossing": [((-25.0, 0.0), (25.0, 0.0)), ((0.0, -25.0), (0.0, 25.0))],
    "overtaking": [((-10.0, 0.0), (30.0, 0.0)), ((-25.0, 0.0), (30.0, 7.0))],
    "one place for two": [((-25.0, 0.0), (0.0, 0.0)), ((25.0, 0.0), (0.0, 0.0))],
    "one place for four": [
        ((-25.0, 0.0), (0.0, 0.0)), ((25.0, 0.0), (0.0, 0.0)), ((0.0, 25.0), (0.0, 0.0)), ((0.0, -25.0), (0.0, 0.0)),
    ],
    "four across": [
        ((-25.0, 0.0), (25.0, 0.0)), ((25.0, 0.0), (-25.0, 0.0)), ((0.0, 25.0), (0.0, -25.0)),
        ((0.0, -25.0), (0.0, 25.0)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("meeting", MEETINGS)
def test_vehicles_never_come_within_two_metres_and_all_arrive(meeting: str) -> None:
    legs = MEETINGS[meeting]
    scene = msgspec.structs.replace(default_scene(), buildings=(), pads_m=tuple(leg[0] for leg in legs))
    flight = Flight(scene, count=len(legs), seed=2)
    flight.lift(10.0)
    for pilot, (_, end) in zip(flight.pilots, legs, strict=True):
        pilot.goto((*end, 10.0), 5.0 if meeting != "overtaking" or pilot.sysid > 1 else 2.0)
    flight.fly(28.0)
    assert flight.fleet.ledger.min_separation_m > 2.0
    shared = len({end for _, end in legs}) < len(legs)
    for i, (_, end) in enumerate(legs):
        assert math.dist(flight.place(i)[:2], end) < (12.0 if shared else 3.0), f"vehicle {i + 1}"
    assert flight.said("yielding")
    assert not flight.said("yielding", sysid=1)


def test_without_the_separation_layer_they_would_have_met() -> None:
    (start, end), (other_start, other_end) = MEETINGS["head-on"]
    scene = msgspec.structs.replace(calm_scene(), pads_m=(start, other_start))
    flight = Flight(scene, count=2)
    flight.lift(10.0)
    for pilot, target in zip(flight.pilots, (end, other_end), strict=True):
        pilot._separation.steer = lambda sense, wanted: wanted  # type: ignore[method-assign]
        pilot.goto((*target, 10.0), 5.0)
    flight.fly(9.0)
    assert flight.fleet.ledger.min_separation_m < 1.0


def test_ten_vehicles_return_to_their_own_pads_from_everywhere() -> None:
    flight = Flight(msgspec.structs.replace(default_scene(), buildings=()), count=10, seed=6)
    flight.lift(10.0)
    random = np.random.default_rng(0)
    for pilot in flight.pilots:
        east, north = random.uniform(-55.0, 55.0, 2).tolist()
        pilot.goto((east, north, 12.0), 5.0)
    flight.fly(15.0)
    for pilot in flight.pilots:
        pilot.rtl()
    flight.until(lambda: not any(pilot.armed for pilot in flight.pilots), 240.0)
    for i, pad in enumerate(flight.scene.pads_m[:10]):
        assert math.dist(flight.place(i)[:2], pad) < 1.5
    assert flight.fleet.ledger.min_separation_m > 2.0
    assert all(math.dist(a, b) > 5.9 for a, b in itertools.combinations(flight.scene.pads_m, 2))


def test_armed_and_forgotten_on_the_ground_it_disarms() -> None:
    flight = Flight(calm_scene())
    flight.pilots[0].arm()
    flight.fly(9.0)
    assert flight.pilots[0].armed
    flight.fly(2.0)
    assert not flight.pilots[0].armed
    flight.lift(6.0)
    flight.fly(12.0)
    assert flight.pilots[0].armed


def test_the_same_seed_and_commands_fly_the_same_to_the_last_bit_autopilots_included() -> None:
    def digest(seed: int) -> str:
        flight = Flight(default_scene(), count=3, seed=seed)
        flight.lift(8.0)
        for pilot in flight.pilots:
            pilot.goto((0.0, -40.0, 8.0))
        flight.fly(6.0)
        return flight.fleet.digest()

    assert digest(1) == digest(1) != digest(2)


def test_at_the_very_height_of_a_roof_it_does_not_graze_it() -> None:
    flat = Building("flat", -9.0, -38.0, 20.0, 12.0, 7.96)
    flight = Flight(msgspec.structs.replace(default_scene(), buildings=(flat,)), seed=2)
    flight.lift(8.0)
    flight.pilots[0].goto((-9.0, -15.0, 8.0))
    flight.until(lambda: flight.place()[1] > -17.0, 60.0)
    assert flight.said("obstacle")
    assert flight.fleet.ledger.contacts[0] == 0


@pytest.mark.parametrize("target", [(-9.0, -35.0, 4.0), (-9.0, -45.2, 4.0), (-9.0, -58.0, 4.0)])
def test_it_does_not_sink_onto_a_roof_or_along_its_edge(target: tuple[float, float, float]) -> None:
    flat = Building("flat", -9.0, -35.0, 20.0, 20.0, 9.0)
    flight = Flight(msgspec.structs.replace(default_scene(), buildings=(flat,)), seed=2)
    flight.lift(15.0)
    flight.pilots[0].goto((target[0], target[1], 15.0))
    flight.fly(10.0)
    flight.pilots[0].goto(target)
    flight.fly(20.0)
    assert flight.fleet.ledger.contacts[0] == 0
    assert flight.place()[2] > 9.5 if target[1] > -45.0 else flight.place()[2] < 15.0


def test_any_flight_over_the_quarter_touches_nothing_and_nobody() -> None:
    flight = Flight(default_scene(), count=5, seed=0)
    random = np.random.default_rng(0)
    flight.lift(10.0)
    for _ in range(2):
        for pilot in flight.pilots:
            east, north, up = random.uniform((-50.0, -50.0, 8.0), (50.0, 50.0, 13.0)).tolist()
            pilot.goto((east, north, up), 5.0)
        flight.fly(18.0)
    assert flight.fleet.ledger.contacts.sum() == 0
    assert flight.fleet.ledger.min_separation_m > 2.0
