"""The physics of the fleet against what a textbook says."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from qaios.core.errors import Invalid
from qaios.worlds import airframe, battery
from qaios.worlds.fleet import BARRIER_S, LIDAR_MAX_M, Fleet
from qaios.worlds.scene import Building, Scene, default_scene


def calm() -> Scene:
    return msgspec.structs.replace(default_scene(), buildings=(), wind_mps=(0.01, 0.0), gust_mps=0.0)


def fly(fleet: Fleet, seconds: float, velocity: tuple[float, float, float], drone: int = 0) -> None:
    fleet.command(drone, armed=True, velocity_mps=velocity, yaw_rad=0.0)
    for _ in range(round(seconds / BARRIER_S)):
        fleet.advance()


def lifted(scene: Scene, seed: int = 1) -> Fleet:
    """A drone that climbed for ten seconds and stands in the air."""
    fleet = Fleet(scene, 1, seed)
    fly(fleet, 10.0, (0.0, 0.0, 2.0))
    fly(fleet, 4.0, (0.0, 0.0, 0.0))
    return fleet


def test_hovering_costs_what_momentum_theory_says() -> None:
    weight_n = airframe.MASS_KG * 9.81
    disk_m2 = 4.0 * math.pi * airframe.ROTOR_RADIUS_M**2
    ideal_w = weight_n**1.5 / math.sqrt(2.0 * 1.225 * disk_m2)  # Leishman, eq. 2.15, all four disks together
    expected_w = ideal_w / battery.EFFICIENCY + battery.AVIONICS_W
    assert battery.hover_power_w() == pytest.approx(expected_w, rel=1e-9)
    fleet = lifted(calm())
    before = fleet.batteries.used_j[0]
    fly(fleet, 5.0, (0.0, 0.0, 0.0))
    assert (fleet.batteries.used_j[0] - before) / 5.0 == pytest.approx(expected_w, rel=0.02)


def test_climbing_costs_more_than_hovering_and_standing_only_the_avionics() -> None:
    fleet = Fleet(calm(), 1, 1)
    fly(fleet, 2.0, (0.0, 0.0, 2.0))
    assert fleet.batteries.power_w[0] > battery.hover_power_w()
    parked = Fleet(calm(), 1, 1)
    for _ in range(10):
        parked.advance()
    assert parked.batteries.power_w[0] == pytest.approx(battery.AVIONICS_W)


@pytest.mark.parametrize("why", ["disarmed", "process gone", "battery empty"])
def test_without_motors_it_falls_as_a_stone_does(why: str) -> None:
    fleet = lifted(calm())
    start = float(fleet.positions_m[0, 2])
    if why == "disarmed":
        fleet.command(0, armed=False, velocity_mps=(0.0, 0.0, 0.0), yaw_rad=0.0)
    elif why == "process gone":
        fleet.stop(0)
    else:
        fleet.batteries.used_j[0] = fleet.batteries.capacity_j
    speed = float(fleet.velocities_mps[0, 2])
    for _ in range(20):
        fleet.advance()
    fallen = start - float(fleet.positions_m[0, 2])
    assert fallen == pytest.approx(0.5 * 9.81 * 0.8**2 - 0.8 * speed, rel=0.06)  # drag takes a little
    for _ in range(100):
        fleet.advance()
    assert fleet.positions_m[0, 2] < 0.3
    assert fleet.ledger.crashed[0]
    assert bool(fleet.ledger.contacts[0]) is bool(fleet.live[0])  # a wreck's fall is no contact


def test_a_battery_that_runs_empty_in_flight_drops_the_drone_and_never_goes_below_zero() -> None:
    fleet = Fleet(msgspec.structs.replace(calm(), battery_wh=0.3), 1, 1)
    fly(fleet, 6.0, (0.0, 0.0, 2.0))
    assert fleet.positions_m[0, 2] > 5.0
    fly(fleet, 14.0, (0.0, 0.0, 0.0))
    assert fleet.positions_m[0, 2] < 0.3
    assert fleet.batteries.fraction[0] == 0.0
    used = fleet.batteries.used_j[0]
    fly(fleet, 1.0, (0.0, 0.0, 2.0))
    assert fleet.batteries.used_j[0] == used
    assert fleet.positions_m[0, 2] < 0.3


def test_a_stopped_vehicle_does_not_start_again() -> None:
    fleet = Fleet(calm(), 2, 1)
    fleet.stop(0)
    for drone in (0, 1):
        fly(fleet, 2.0, (0.0, 0.0, 2.0), drone)
    assert fleet.positions_m[0, 2] < 0.1
    assert fleet.positions_m[1, 2] > 1.0


def test_it_holds_its_velocity_in_gusty_wind() -> None:
    fleet = lifted(msgspec.structs.replace(default_scene(), buildings=(), wind_mps=(5.0, 2.0), gust_mps=7.0))
    fly(fleet, 4.0, (3.0, 0.0, 0.0))
    start = fleet.positions_m[0]
    fly(fleet, 8.0, (3.0, 0.0, 0.0))
    mean = (fleet.positions_m[0] - start) / 8.0
    assert mean.tolist() == pytest.approx([3.0, 0.0, 0.0], abs=0.25)


def test_it_turns_to_the_heading_asked_for() -> None:
    fleet = lifted(calm())
    fleet.command(0, armed=True, velocity_mps=(0.0, 0.0, 0.0), yaw_rad=1.0)
    for _ in range(75):
        fleet.advance()
    assert fleet.sense(0).attitude_rad[2] == pytest.approx(math.pi / 2.0 - 1.0, abs=0.05)  # NED: clockwise from north


def test_turning_on_the_spot_does_not_lift_or_drop_it() -> None:
    fleet = lifted(calm())
    height = fleet.positions_m[0, 2]
    for yaw in (2.0, -2.0):
        fleet.command(0, armed=True, velocity_mps=(0.0, 0.0, 0.0), yaw_rad=yaw)
        for _ in range(75):
            fleet.advance()
            assert abs(fleet.positions_m[0, 2] - height) < 0.1


def test_nose_down_is_negative_pitch_and_right_down_is_positive_roll() -> None:
    fleet = lifted(calm())
    fleet.command(0, armed=True, velocity_mps=(4.0, 0.0, 0.0), yaw_rad=0.0)  # nose east, speeding up: nose down
    for _ in range(8):
        fleet.advance()
    assert fleet.sense(0).attitude_rad[1] < -0.1
    fleet = lifted(calm())
    fleet.command(0, armed=True, velocity_mps=(0.0, -4.0, 0.0), yaw_rad=0.0)  # nose east, speeding up to the south
    for _ in range(8):
        fleet.advance()
    assert fleet.sense(0).attitude_rad[0] > 0.1


def test_lidar_measures_a_wall_where_it_is_and_the_ground_below() -> None:
    east, north = default_scene().pads_m[0]
    wall = Building("wall", east, north + 15.0, 30.0, 10.0, 40.0)  # its face is 10 m north of the pad
    fleet = lifted(msgspec.structs.replace(calm(), buildings=(wall,)))
    sense = fleet.sense(0)
    ahead = north + 10.0 - sense.position_m[1]
    assert sense.lidar_m[0] == pytest.approx(ahead, abs=0.05)
    assert sense.lidar_m[2] == pytest.approx(ahead / math.cos(math.radians(30.0)), abs=0.1)
    assert sense.lidar_m[12] == LIDAR_MAX_M
    assert sense.down_m == pytest.approx(sense.position_m[2], abs=0.01)


def test_flying_into_a_wall_is_a_contact_in_the_ledger() -> None:
    east, north = default_scene().pads_m[0]
    fleet = lifted(msgspec.structs.replace(calm(), buildings=(Building("wall", east, north + 10.0, 30.0, 6.0, 40.0),)))
    assert fleet.ledger.contacts[0] == 0
    fly(fleet, 4.0, (0.0, 4.0, 0.0))
    assert fleet.ledger.contacts[0] >= 1


def trajectory(seed: int) -> str:
    fleet = Fleet(default_scene(), 3, seed)
    for barrier in range(150):
        for drone in range(3):
            velocity = (math.sin(barrier / 20.0 + drone), 0.5, 2.0 if barrier < 75 else 0.0)
            fleet.command(drone, armed=True, velocity_mps=velocity, yaw_rad=0.1 * drone)
        fleet.advance()
    return fleet.digest()


def test_the_same_seed_and_commands_give_the_same_trajectory_to_the_last_bit() -> None:
    assert trajectory(1) == trajectory(1) != trajectory(2)


def test_beacons_reach_the_others_and_fall_silent_with_their_vehicle() -> None:
    from qaios.worlds.wire import Beacon

    fleet = Fleet(calm(), 2, 1)
    beacon = Beacon(1, (0.0, 0.0, 5.0), (0.0, 0.0, 0.0), airborne=True)
    fleet.command(0, armed=True, velocity_mps=(0.0, 0.0, 0.0), yaw_rad=0.0, beacon=beacon)
    fleet.advance()
    assert fleet.sense(1).beacons == (beacon,)
    assert fleet.sense(0).beacons == ()
    fleet.stop(0)
    assert fleet.sense(1).beacons == ()


def test_separation_counts_only_live_drones_in_the_air() -> None:
    scene = msgspec.structs.replace(calm(), pads_m=((0.0, 0.0), (4.0, 0.0), (100.0, 0.0)))
    fleet = Fleet(scene, 3, 1)
    for drone in (0, 2):
        fleet.command(drone, armed=True, velocity_mps=(0.0, 0.0, 2.0), yaw_rad=0.0)
    for _ in range(100):
        fleet.advance()
    assert fleet.ledger.min_separation_m == pytest.approx(100.0, abs=1.0)


@pytest.mark.parametrize("count", [0, 17])
def test_too_few_or_too_many_vehicles_are_refused(count: int) -> None:
    with pytest.raises(Invalid, match="vehicles"):
        Fleet(default_scene(), count, 1)


def test_a_setpoint_that_is_not_a_number_is_refused() -> None:
    fleet = Fleet(calm(), 1, 1)
    with pytest.raises(Invalid, match="not a number"):
        fleet.command(0, armed=True, velocity_mps=(math.nan, 0.0, 0.0), yaw_rad=0.0)


def test_the_mixer_gives_the_thrust_and_torques_it_was_asked_for() -> None:
    wanted = np.array([9.81, 0.1, -0.2, 0.03])
    thrusts = airframe.mixer() @ wanted
    arms, spin = airframe.MOTOR_XY_M, airframe.MOTOR_SPIN
    got = [
        thrusts.sum(),
        (thrusts * arms[:, 1]).sum(),
        -(thrusts * arms[:, 0]).sum(),
        (thrusts * spin * airframe.TORQUE_PER_THRUST_M).sum(),
    ]
    assert got == pytest.approx(wanted.tolist())
