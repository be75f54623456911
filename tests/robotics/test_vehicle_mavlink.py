"""A vehicle on the wire: standard MAVLink, honest answers, and a link that loses things."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from pymavlink.dialects.v20 import common

from qaios.robotics.vehicle import planid
from qaios.robotics.vehicle.airlog import RECORD
from qaios.robotics.vehicle.plan import FlightMode, MissionState
from tests.robotics.flying import Flight, Ground, calm_scene

ARM, TAKEOFF, LAND, RTL, START, PAUSE, REPOSITION, SPEED, MESSAGE, SET_MODE = (
    400, 22, 21, 20, 300, 193, 192, 178, 512, 176,
)  # fmt: skip
ACCEPTED, REJECTED, DENIED, UNSUPPORTED = 0, 1, 2, 3


def mission(ground: Ground) -> list[Any]:
    home = ground.flight.scene.pads_m[ground.i]
    return [
        ground.item(0, TAKEOFF, (home[0], home[1], 6.0)),
        ground.item(1, 16, (home[0], home[1] + 12.0, 6.0)),
        ground.item(2, 16, (home[0] + 8.0, home[1] + 12.0, 6.0)),
    ]


def test_it_says_who_and_where_it_is() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    ground.heartbeat()
    flight.fly(5.2)
    kinds = {message for message in ("HEARTBEAT", "GLOBAL_POSITION_INT", "LOCAL_POSITION_NED", "ATTITUDE", "SYS_STATUS",
             "BATTERY_STATUS", "OBSTACLE_DISTANCE", "NAMED_VALUE_FLOAT", "MISSION_CURRENT", "EXTENDED_SYS_STATE",
             "SYSTEM_TIME", "HOME_POSITION") if ground.heard(message)}  # fmt: skip
    assert len(kinds) == 12
    assert 5 <= len(ground.heard("HEARTBEAT")) <= 6
    assert 25 <= len(ground.heard("GLOBAL_POSITION_INT")) <= 27
    beat = ground.heard("HEARTBEAT")[-1]
    assert beat.autopilot == common.MAV_AUTOPILOT_PX4
    assert beat.custom_mode == FlightMode.HOLD.custom_mode
    where = ground.heard("GLOBAL_POSITION_INT")[-1]
    east, north = flight.endpoints[0].frame.local(where.lon / 1e7, where.lat / 1e7)
    assert (east, north) == pytest.approx(flight.place()[:2], abs=0.02)
    lidar = ground.heard("OBSTACLE_DISTANCE")[-1]
    assert lidar.increment_f == 15.0
    assert lidar.distances[:24] == [2001] * 24
    assert lidar.distances[24] == 65535


def test_nobody_who_has_not_spoken_is_told_anything_and_the_silent_are_forgotten() -> None:
    flight = Flight(calm_scene())
    flight.fly(2.0)
    assert not flight.sent[0]
    ground = Ground(flight)
    ground.heartbeat()
    flight.fly(1.0)
    assert flight.sent[0]
    flight.endpoints[0]._peers[ground.peer] -= 60.0
    ground.clear()
    flight.fly(2.0)
    assert not flight.sent[0]


def test_garbage_is_dropped_and_counted_and_the_vehicle_flies_on() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    chance = random.Random(1)
    good = bytes(common.MAVLink_heartbeat_message(6, 8, 0, 0, 4, 3).pack(ground.mav))
    for _ in range(300):
        junk = bytearray(
            chance.choice([good, chance.randbytes(chance.randint(0, 300)), b"\xfd" + chance.randbytes(40)])
        )
        for _ in range(chance.randint(0, 3)):
            if junk:
                junk[chance.randrange(len(junk))] ^= 1 << chance.randrange(8)
        flight.endpoints[0].receive(bytes(junk[: chance.randint(0, len(junk) or 1)]), ground.peer)
    assert flight.endpoints[0].malformed > 100
    flight.lift(6.0)
    assert ground.command(PAUSE, 0.0) == ACCEPTED


def test_fuzzed_but_valid_messages_never_break_it() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    chance = random.Random(2)
    flight.lift(6.0)
    odd = [math.nan, math.inf, -math.inf, 0.0, 1.0, 1e30, -7.0, 65536.0]
    for _ in range(400):
        command = chance.choice([ARM, TAKEOFF, START, PAUSE, REPOSITION, SPEED, MESSAGE, SET_MODE, 224, 520, 12345])
        given = [chance.choice(odd) for _ in range(7)]
        if command == ARM:
            given[0] = 1.0
        ground.send(common.MAVLink_command_long_message(1, 1, command, 0, *given))
        x, y = chance.choice([(0, 0), (2**31 - 1, -(2**31)), (473977000, 85456000)])
        ground.send(common.MAVLink_command_int_message(1, 1, 6, command, 0, 0, *given[:4], x, y, given[6]))
        ground.send(
            common.MAVLink_set_position_target_local_ned_message(0, 1, 1, 1, chance.randrange(4096), *given, *given[:4])
        )
        ground.send(common.MAVLink_log_request_data_message(1, 1, 1, chance.randrange(2**32), chance.randrange(2**32)))
        ground.send(common.MAVLink_param_set_message(1, 1, b"MPC_XY_CRUISE", chance.choice(odd), 9))
    flight.fly(2.0)
    assert all(map(math.isfinite, flight.place()))


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_a_mission_is_uploaded_flown_and_recognised_by_its_id_even_over_a_lossy_link(loss: float) -> None:
    flight = Flight(calm_scene(), loss=loss, seed=11)
    ground = Ground(flight)
    ack = ground.upload(mission(ground), plan=0xDEADBEEF)
    assert ack.type == 0
    assert planid.read(ack) == 0xDEADBEEF
    pilot = flight.pilots[0]
    pilot.arm()
    pilot.start_mission()
    flight.until(lambda: pilot.mission is MissionState.COMPLETE, 60.0)
    reports: list[Any] = []
    while not reports or reports[-1].mission_state != MissionState.COMPLETE:
        ground.heartbeat()
        flight.fly(1.0)
        reports = ground.heard("MISSION_CURRENT")
    assert planid.read(reports[-1]) == 0xDEADBEEF
    assert reports[-1].seq == 2
    assert reports[-1].total == 3
    flight.fly(2.0)
    assert math.dist(flight.place(), (-1.0, -54.0, 6.0)) < 1.0


def test_each_item_reached_is_told() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    ground.upload(mission(ground))
    flight.pilots[0].arm()
    flight.pilots[0].start_mission()
    flight.until(lambda: flight.pilots[0].mission is MissionState.COMPLETE, 60.0)
    assert [message.seq for message in ground.heard("MISSION_ITEM_REACHED")] == [0, 1, 2]


def test_an_upload_without_an_id_gets_one_that_changes_with_the_plan() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    first = planid.read(ground.upload(mission(ground)))
    again = planid.read(ground.upload(mission(ground)))
    other = planid.read(ground.upload(mission(ground)[:2]))
    assert first == again != 0
    assert other not in (0, first)


def test_a_mission_with_an_unknown_command_is_refused_whole_and_the_old_one_stays() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    ground.upload(mission(ground), plan=1)
    ack = ground.upload([*mission(ground), ground.item(3, 2000, None)], plan=2)
    assert ack.type == common.MAV_MISSION_UNSUPPORTED
    assert planid.read(ack) == 0
    assert flight.pilots[0].plan_id == 1


def test_an_upload_that_stops_half_way_changes_nothing_and_is_given_up() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    ground.upload(mission(ground), plan=1)
    ground.clear()
    ground.send(common.MAVLink_mission_count_message(1, 1, 3, 0))
    ground.send(mission(ground)[0])
    flight.fly(8.0)
    assert len(ground.heard("MISSION_REQUEST_INT")) >= 10
    assert ground.heard("MISSION_ACK")[-1].type == common.MAV_MISSION_OPERATION_CANCELLED
    assert flight.pilots[0].plan_id == 1


def test_items_out_of_turn_or_twice_are_not_taken() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    items = mission(ground)
    ground.send(common.MAVLink_mission_count_message(1, 1, 3, 0))
    for item in (items[0], items[0], items[2], items[1], items[0], items[2]):
        ground.send(item)
    assert ground.heard("MISSION_ACK")[-1].type == 0
    assert [item.place_m for item in flight.pilots[0].items] == [
        pytest.approx(place, abs=0.02) for place in [(-9.0, -66.0, 6.0), (-9.0, -54.0, 6.0), (-1.0, -54.0, 6.0)]
    ]


def test_a_mission_comes_back_as_it_was_sent() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    sent = mission(ground)
    ground.upload(sent, plan=77)
    ground.clear()
    ground.send(common.MAVLink_mission_request_list_message(1, 1, 0))
    (count,) = ground.heard("MISSION_COUNT")
    assert (count.count, planid.read(count)) == (3, 77)
    for seq in range(3):
        ground.send(common.MAVLink_mission_request_int_message(1, 1, seq, 0))
    got = ground.heard("MISSION_ITEM_INT")
    assert [(m.command, m.x, m.y, m.z) for m in got] == [(m.command, m.x, m.y, m.z) for m in sent]
    ground.send(common.MAVLink_mission_request_int_message(1, 1, 9, 0))
    assert ground.heard("MISSION_ACK")[-1].type == common.MAV_MISSION_INVALID_SEQUENCE


def test_clearing_all_takes_mission_and_fence_away() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    ground.upload(mission(ground), plan=1)
    ground.upload([ground.item(0, 5004, (0.0, 0.0, 0.0), kind=1, param1=5.0)], kind=1, plan=2)
    assert flight.pilots[0].fence.zones
    ground.send(common.MAVLink_mission_clear_all_message(1, 1, 255))
    assert flight.pilots[0].items == ()
    assert flight.pilots[0].fence.zones == ()
    assert flight.pilots[0].mission is MissionState.NO_MISSION


def test_a_fence_is_uploaded_and_then_kept() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    corners = [(-15.0, -50.0), (0.0, -50.0), (0.0, -40.0), (-15.0, -40.0)]
    items = [ground.item(i, 5002, (*c, 0.0), kind=1, param1=4.0) for i, c in enumerate(corners)]
    assert ground.upload(items, kind=1, plan=9).type == 0
    assert flight.pilots[0].fence.breach(-7.0, -45.0, 5.0) == "inside a no-fly zone"
    bad = ground.upload(items[:3], kind=1, plan=10)
    assert bad.type == common.MAV_MISSION_INVALID
    assert flight.pilots[0].fence.id == 9


def test_commands_are_answered_with_what_came_of_them() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    assert ground.command(TAKEOFF, 0, 0, 0, 0, 0, 0, 8.0) == REJECTED
    assert ground.command(START) == REJECTED
    assert ground.command(ARM, 1.0) == ACCEPTED
    assert ground.command(ARM, 1.0) == ACCEPTED
    assert ground.command(TAKEOFF, 0, 0, 0, 0, 0, 0, 900.0) == DENIED
    assert ground.command(TAKEOFF, 0, 0, 0, math.nan, math.nan, math.nan, 8.0) == ACCEPTED
    flight.until(lambda: flight.place()[2] > 7.5)
    assert ground.command(TAKEOFF, 0, 0, 0, math.nan, math.nan, math.nan, 5.0) == ACCEPTED
    flight.fly(2.0)
    assert flight.place()[2] > 7.0  # a second take-off never sinks
    assert ground.command(ARM, 0.0) == REJECTED
    assert ground.command(SPEED, 1.0, 99.0) == DENIED
    assert ground.command(SPEED, 1.0, 3.0) == ACCEPTED
    assert ground.command(12345) == UNSUPPORTED
    assert ground.command(MESSAGE, 148) == ACCEPTED
    assert ground.heard("AUTOPILOT_VERSION")
    assert ground.command(MESSAGE, 9999) == UNSUPPORTED
    assert ground.command(RTL) == ACCEPTED
    assert flight.pilots[0].mode in (FlightMode.RTL, FlightMode.LAND)
    ground.clear()
    assert ground.command(START) == REJECTED
    (text,) = ground.heard("STATUSTEXT")
    assert "none uploaded" in text.text


def test_who_is_meant_is_respected() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    ground.send(common.MAVLink_command_long_message(2, 1, ARM, 0, 1.0, 0, 0, 0, 0, 0, 0))
    assert not flight.pilots[0].armed
    assert not ground.heard("COMMAND_ACK")


def test_pause_and_continue_resume_the_mission_where_it_was() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    ground.upload(mission(ground))
    ground.command(ARM, 1.0)
    ground.command(START)
    flight.until(lambda: flight.pilots[0].current == 1)
    flight.fly(2.0)
    assert ground.command(PAUSE, 0.0) == ACCEPTED
    assert flight.pilots[0].mission is MissionState.PAUSED
    flight.fly(3.0)
    held = flight.place()
    flight.fly(3.0)
    assert math.dist(held, flight.place()) < 0.5
    assert ground.command(PAUSE, 1.0) == ACCEPTED
    assert flight.pilots[0].current == 1
    flight.until(lambda: flight.pilots[0].mission is MissionState.COMPLETE, 60.0)


def test_it_goes_where_it_is_repositioned_and_refuses_no_fly_zones() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    flight.forbid(0, ((-5.0, -50.0), (5.0, -50.0), (5.0, -40.0), (-5.0, -40.0)))
    flight.lift(6.0)
    lon, lat = flight.endpoints[0].frame.place(-14.0, -55.0)
    x, y = round(lat * 1e7), round(lon * 1e7)
    ground.send(common.MAVLink_command_int_message(1, 1, 6, REPOSITION, 0, 0, -1.0, 1.0, 0.0, math.nan, x, y, 9.0))
    assert ground.heard("COMMAND_ACK")[-1].result == ACCEPTED
    flight.fly(10.0)
    assert math.dist(flight.place(), (-14.0, -55.0, 9.0)) < 0.7
    lon, lat = flight.endpoints[0].frame.place(0.0, -45.0)
    x, y = round(lat * 1e7), round(lon * 1e7)
    ground.send(common.MAVLink_command_int_message(1, 1, 6, REPOSITION, 0, 0, -1.0, 1.0, 0.0, math.nan, x, y, 9.0))
    assert ground.heard("COMMAND_ACK")[-1].result == DENIED


def test_offboard_needs_setpoints_follows_them_and_holds_when_they_stop() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    flight.lift(6.0)
    assert ground.command(SET_MODE, 1.0, 6.0, 0.0) == REJECTED

    def push() -> None:
        ned = (-58.0, -9.0, -8.0)
        ground.send(
            common.MAVLink_set_position_target_local_ned_message(0, 1, 1, 1, 0b110111111000, *ned, *([0.0] * 8))
        )

    push()
    assert ground.command(SET_MODE, 1.0, 6.0, 0.0) == ACCEPTED
    flight.fly(8.0, push)
    assert math.dist(flight.place(), (-9.0, -58.0, 8.0)) < 0.7
    flight.fly(1.5)
    assert flight.pilots[0].mode is FlightMode.HOLD
    assert flight.said("offboard setpoints stopped")


def test_parameters_are_listed_set_and_refused() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    ground.send(common.MAVLink_param_request_list_message(1, 1))
    assert len(ground.heard("PARAM_VALUE")) == len(flight.pilots[0].parameters.names)
    ground.clear()
    ground.send(common.MAVLink_param_set_message(1, 1, b"COM_DL_LOSS_T", 9.0, 9))
    assert ground.heard("PARAM_VALUE")[-1].param_value == 9.0
    ground.send(common.MAVLink_param_set_message(1, 1, b"COM_DL_LOSS_T", -1.0, 9))
    assert ground.heard("PARAM_VALUE")[-1].param_value == 9.0
    assert "allowed" in ground.heard("STATUSTEXT")[-1].text


def test_every_sample_can_be_fetched_from_the_log_over_a_lossy_link() -> None:
    flight = Flight(calm_scene(), loss=0.25, seed=3)
    ground = Ground(flight)
    ground.heartbeat()
    flight.lift(6.0)
    for _ in range(20):
        ground.heartbeat()
        flight.fly(1.0)
    told = len(ground.heard("NAMED_VALUE_FLOAT"))
    size = len(flight.endpoints[0].log) * RECORD.size
    chunks: dict[int, bytes] = {}
    for _ in range(40):
        missing = next((offset for offset in range(0, size, 90) if offset not in chunks), None)
        if missing is None:
            break
        ground.clear()
        ground.send(common.MAVLink_log_request_data_message(1, 1, 1, missing, size - missing))
        for message in ground.heard("LOG_DATA"):
            chunks[message.ofs] = bytes(message.data[: message.count])
    content = b"".join(chunks[offset] for offset in sorted(chunks))[:size]
    records = list(RECORD.iter_unpack(content))
    assert len(records) == len(flight.endpoints[0].log) > told
    times = [record[0] for record in records]
    assert times == sorted(times)
    assert all(record[4] >= 0.0 and record[5] >= 1.0 for record in records)
    assert len(ground.heard("NAMED_VALUE_FLOAT")) < len(records)


def test_the_log_is_listed_with_its_size_and_reads_past_its_end_are_empty() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    flight.fly(5.0)
    ground.send(common.MAVLink_log_request_list_message(1, 1, 0, 65535))
    (entry,) = ground.heard("LOG_ENTRY")
    assert (entry.id, entry.num_logs, entry.size) == (1, 1, len(flight.endpoints[0].log) * 24)
    ground.send(common.MAVLink_log_request_data_message(1, 1, 1, 10**6, 90))
    (data,) = ground.heard("LOG_DATA")
    assert data.count == 0


def test_the_same_seed_loses_the_same_datagrams() -> None:
    def told(seed: int) -> list[str]:
        flight = Flight(calm_scene(), loss=0.4, seed=seed)
        ground = Ground(flight)
        for _ in range(4):
            ground.heartbeat()
            flight.fly(1.0)
        return [ground.mav.decode(bytearray(packet)).get_type() for packet in flight.sent[0]]

    assert told(1) == told(1) != told(2)


def test_plan_ids_survive_where_others_do_not_know_them() -> None:
    mav = common.MAVLink(None, srcSystem=1, srcComponent=1)
    packet = planid.pack(mav, mav.mission_count_encode(1, 1, 7, 1), 0xFFFFFFFF)
    plain = common.MAVLink(None).decode(bytearray(packet))
    assert (plain.count, plain.mission_type, planid.read(plain)) == (7, 1, 0xFFFFFFFF)
    old = mav.decode(bytearray(mav.mission_count_encode(1, 1, 7, 0).pack(mav)))
    assert planid.read(old) == 0


def test_a_take_off_item_never_makes_a_flying_vehicle_sink() -> None:
    flight = Flight(calm_scene())
    ground = Ground(flight)
    flight.lift(12.0)
    ground.upload(mission(ground))
    assert ground.command(START) == ACCEPTED
    flight.fly(0.5)
    assert flight.pilots[0].current == 1
