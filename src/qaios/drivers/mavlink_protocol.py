"""MAVLink's conversations, each made to survive a link that drops packets.

    order          COMMAND_LONG until its COMMAND_ACK            mavlink.io/en/services/command.html
    upload         MISSION_COUNT / REQUEST_INT / ITEM_INT / ACK  mavlink.io/en/services/mission.html
    fetch_log      LOG_REQUEST_DATA / LOG_DATA, gaps asked again
    ask            MAV_CMD_REQUEST_MESSAGE for one message

All of them repeat themselves on the site's clock and give up with a `DeviceFault` that says what the vehicle
answered, or with `DeviceLost` from the link. Plan ids (`opaque_id`, `mission_id`) are extension fields that
pymavlink 2.4.50 does not carry; `robotics.vehicle.planid` writes and reads them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qaios.core.errors import DeviceFault
from qaios.drivers.mavlink_link import VehicleLink

ANSWER_S = 1.0  # how long an answer may take before the question is asked again
TRIES = 8
MISSION, FENCE = 0, 1  # MAV_MISSION_TYPE
SET_MODE, ARM, REQUEST_MESSAGE = 176, 400, 512
RELATIVE, NOWHERE = 6, 2  # MAV_FRAME_GLOBAL_RELATIVE_ALT_INT, MAV_FRAME_MISSION
TAKEOFF, WAYPOINT, CHANGE_SPEED, RETURN, LOITER_TIME = 22, 16, 178, 20, 19
FENCE_INSIDE, FENCE_OUTSIDE, FENCE_CIRCLE = 5001, 5002, 5003
HOLD, FLY_MISSION, GO_HOME, LAND = 3, 4, 5, 6  # PX4's sub modes of AUTO
ACCEPTED, BUSY, DENIED, UNSUPPORTED, FAILED, IN_PROGRESS = range(6)
VERDICTS = {BUSY: "not now", DENIED: "denied", UNSUPPORTED: "not supported", FAILED: "failed"}
LOG_ID = 1
LOG_RECORD = struct.Struct("<Iiifff")  # time_boot_ms, lat, lon (1e7 deg), m above home, pm25, sigma (ug/m3)
LOG_CHUNK = 90


class Declined(DeviceFault):
    """The vehicle answered, and the answer was no. `verdict` is its MAV_RESULT."""

    def __init__(self, message: str, verdict: int) -> None:
        super().__init__(message, retryable=verdict == BUSY)
        self.verdict = verdict


@dataclass(frozen=True, slots=True)
class PlanItem:
    """One MISSION_ITEM_INT, its place in local metres (east, north, up above home) or None where it has none."""

    command: int
    place_m: tuple[float, float, float] | None = None
    param1: float = 0.0
    param2: float = 0.0
    param3: float = 0.0


async def order(link: VehicleLink, command: int, *params: float) -> None:
    """Have one command carried out. Repeating it must be harmless, which the commands used here are."""
    asked_s = link.clock.now_s()
    given = [*params, *[0.0] * (7 - len(params))]
    for attempt in range(TRIES):
        link.send(link.mavlink.MAVLink_command_long_message(link.sysid, 1, command, attempt, *given))
        verdict = await link.expect(
            ("COMMAND_ACK",), ANSWER_S, lambda ack: ack.result if ack.command == command else None
        )
        while verdict == IN_PROGRESS:
            verdict = await link.expect(
                ("COMMAND_ACK",), 10.0 * ANSWER_S, lambda ack: ack.result if ack.command == command else None
            )
        if verdict == ACCEPTED:
            return
        if verdict is not None:
            why = link.seen.last_text(asked_s)
            said = f": {why}" if why else ""
            raise Declined(f"{link.name} answered {VERDICTS.get(verdict, verdict)} to command {command}{said}", verdict)
    raise DeviceFault(f"{link.name} did not answer command {command} in {TRIES} tries")


async def set_mode(link: VehicleLink, sub_mode: int) -> None:
    """Change to one of PX4's AUTO modes."""
    await order(link, SET_MODE, 1.0, 4.0, float(sub_mode))


def mode_packet(sysid: int, sub_mode: int) -> bytes:
    """The bytes of that command, ready for anyone to send: what a halt recipe is made of."""
    from qaios.drivers.mavlink_link import GROUND_COMPONENT, GROUND_SYSTEM, dialect

    mavlink = dialect()
    encoder = mavlink.MAVLink(None, srcSystem=GROUND_SYSTEM, srcComponent=GROUND_COMPONENT)
    message = mavlink.MAVLink_command_long_message(sysid, 1, SET_MODE, 0, 1.0, 4.0, float(sub_mode), 0, 0, 0, 0)
    return bytes(message.pack(encoder))


async def ask(link: VehicleLink, name: str, message_id: int) -> Any:
    """One message now; None when the vehicle does not have it."""
    for _ in range(TRIES):
        link.send(
            link.mavlink.MAVLink_command_long_message(link.sysid, 1, REQUEST_MESSAGE, 0, message_id, 0, 0, 0, 0, 0, 0)
        )
        answer = await link.expect((name,), ANSWER_S)
        if answer is not None:
            return answer
    return None


async def upload(link: VehicleLink, items: Sequence[PlanItem], kind: int, plan_id: int) -> None:
    """Put a plan into the vehicle; it is there whole or not at all. Raises `Declined` with the reason."""
    from qaios.robotics.vehicle import planid

    started_s = link.clock.now_s()
    mavlink = link.mavlink
    count = mavlink.MAVLink_mission_count_message(link.sysid, 1, len(items), kind)

    def say(seq: int | None) -> None:
        if seq is None:
            link.send_packet(planid.pack(link.encoder, count, plan_id))
        else:
            link.send(_item(link, seq, items[seq], kind))

    def heard(message: Any) -> tuple[str, int] | None:
        if message.mission_type != kind:
            return None
        if message.get_type() == "MISSION_ACK":
            return ("ack", message.type)
        return ("item", message.seq) if message.seq < len(items) else None

    last: int | None = None
    silent = 0
    say(None)
    while silent < TRIES:
        answer = await link.expect(("MISSION_REQUEST_INT", "MISSION_REQUEST", "MISSION_ACK"), ANSWER_S, heard)
        if answer is None:
            silent += 1
            say(last)
            continue
        silent = 0
        what, number = answer
        if what == "item":
            last = number
            say(number)
        elif number == 0:
            if kind == MISSION:
                link.seen.reached = -1
            return
        else:
            why = link.seen.last_text(started_s)
            raise Declined(f"{link.name} refused the plan (MAV_MISSION_RESULT {number}): {why or 'no reason'}", DENIED)
    raise DeviceFault(f"{link.name} stopped answering during a plan upload")


def _item(link: VehicleLink, seq: int, item: PlanItem, kind: int) -> Any:
    east, north, up = item.place_m or (0.0, 0.0, 0.0)
    lon, lat = link.origin.place(east, north) if item.place_m else (0.0, 0.0)
    yaw = math.nan if item.command in (WAYPOINT, TAKEOFF, LOITER_TIME) else 0.0
    frame = RELATIVE if item.place_m else NOWHERE
    return link.mavlink.MAVLink_mission_item_int_message(
        link.sysid, 1, seq, frame, item.command, int(seq == 0 and kind == MISSION), 1,
        item.param1, item.param2, item.param3, yaw, round(lat * 1e7), round(lon * 1e7), up, kind,
    )  # fmt: skip


def fence_items(
    inclusion: Sequence[Sequence[float]], exclusions: Sequence[Sequence[Sequence[float]]]
) -> list[PlanItem]:
    """Polygons in metres as fence items: inside the first, outside all others."""
    rows = [(FENCE_INSIDE, inclusion), *((FENCE_OUTSIDE, zone) for zone in exclusions)]
    return [
        PlanItem(command, (float(x), float(y), 0.0), param1=float(len(corners)))
        for command, corners in rows
        for x, y, *_ in corners
    ]


async def fetch_log(link: VehicleLink) -> list[tuple[float, float, float, float, float, float]]:
    """The vehicle's own log of air samples: rows (t_s, east_m, north_m, up_m, pm25_ug_m3, sigma_ug_m3).

    Chunks that the link dropped are asked for again until none is missing. Raises `DeviceFault` when the vehicle
    keeps no such log or stops answering.
    """
    size = await _log_bytes(link)
    chunks: dict[int, bytes] = {}
    silent = 0
    while missing := [at for at in range(0, size, LOG_CHUNK) if at not in chunks]:
        if silent >= TRIES:
            raise DeviceFault(f"{link.name} stopped sending its sample log")
        first = missing[0]
        run = next((at for at in range(first, size + LOG_CHUNK, LOG_CHUNK) if at in chunks), size) - first
        link.send(link.mavlink.MAVLink_log_request_data_message(link.sysid, 1, LOG_ID, first, run))
        before = len(chunks)
        last = first + (run - 1) // LOG_CHUNK * LOG_CHUNK

        def take(message: Any, last: int = last) -> bool | None:
            if message.id == LOG_ID:
                chunks[message.ofs] = bytes(message.data[: message.count])
            return True if last in chunks else None

        await link.expect(("LOG_DATA",), ANSWER_S, take)
        silent = 0 if len(chunks) > before else silent + 1
    whole = b"".join(chunks[at] for at in range(0, size, LOG_CHUNK))[:size]
    rows = []
    for boot_ms, lat, lon, up, value, sigma in LOG_RECORD.iter_unpack(whole):
        east, north = link.origin.local(lon / 1e7, lat / 1e7)
        rows.append((round(link.site_time_s(boot_ms), 3), east, north, up, value, sigma))
    return rows


async def _log_bytes(link: VehicleLink) -> int:
    for _ in range(TRIES):
        link.send(link.mavlink.MAVLink_log_request_list_message(link.sysid, 1, 0, 0xFFFF))
        size = await link.expect(("LOG_ENTRY",), ANSWER_S, lambda entry: entry.size if entry.id == LOG_ID else None)
        if size is not None:
            return int(size) // LOG_RECORD.size * LOG_RECORD.size
    raise DeviceFault(f"{link.name} keeps no sample log")
