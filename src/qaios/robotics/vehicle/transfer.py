"""Missions and fences in and out, by MAVLink's mission protocol.

Upload: MISSION_COUNT -> we ask for each item with MISSION_REQUEST_INT -> MISSION_ACK, with the plan's id. A new
MISSION_COUNT starts over; an item that does not come is asked for again every half second of world time, ten times.
Only a complete, valid plan replaces the old one. Download: MISSION_REQUEST_LIST -> MISSION_COUNT -> items.
The whole is per plan type (mission, fence); one upload at a time, as PX4 has it.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from qaios.core.errors import Invalid, QaiError
from qaios.robotics.vehicle import planid
from qaios.robotics.vehicle.plan import Circle, Command, Item, Polygon

if TYPE_CHECKING:
    from qaios.robotics.vehicle.endpoint import Address, Endpoint

RETRY_S = 0.5
TRIES = 10
ITEMS_MAX = 2000
MISSION, FENCE = 0, 1
PLACED = frozenset({Command.WAYPOINT, Command.LOITER_TIME, Command.TAKEOFF, Command.LAND})


@dataclass(slots=True)
class Upload:
    """A plan on its way in."""

    peer: Address
    source: tuple[int, int]
    kind: int
    count: int
    plan_id: int
    items: list[Any] = field(default_factory=list)
    asked_s: float = 0.0
    tries: int = 0


class Transfer:
    """The mission protocol of one endpoint."""

    KINDS: ClassVar[frozenset[str]] = frozenset(
        {
            "MISSION_COUNT",
            "MISSION_ITEM_INT",
            "MISSION_REQUEST_LIST",
            "MISSION_REQUEST_INT",
            "MISSION_REQUEST",
            "MISSION_CLEAR_ALL",
            "MISSION_SET_CURRENT",
            "MISSION_ACK",
        }
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._autopilot = endpoint.autopilot
        self._d = endpoint.dialect
        self._upload: Upload | None = None
        self._finished: Upload | None = None  # to answer an item that arrives again because our ACK was lost
        self._fence_wire: tuple[Any, ...] = ()

    def take(self, message: Any, peer: Address) -> None:
        """One message of the protocol."""
        match message.get_type():
            case "MISSION_COUNT":
                self._begin(message, peer)
            case "MISSION_ITEM_INT":
                self._item(message, peer)
            case "MISSION_REQUEST_LIST":
                self._count(message, peer)
            case "MISSION_REQUEST_INT" | "MISSION_REQUEST":
                self._give(message, peer)
            case "MISSION_CLEAR_ALL":
                self._clear(message, peer)
            case "MISSION_SET_CURRENT":
                try:
                    self._autopilot.select(message.seq)
                except QaiError as error:
                    self._endpoint.refuse(error)
                self._endpoint.mission_current(peer)

    def tick(self, now_s: float) -> None:
        """Ask again for what did not come."""
        upload = self._upload
        if upload is None or now_s - upload.asked_s < RETRY_S:
            return
        if upload.tries >= TRIES:
            self._upload = None
            self._ack(upload, self._d.MAV_MISSION_OPERATION_CANCELLED)
            return
        upload.tries += 1
        self._ask(upload)

    # -- upload -------------------------------------------------------------------------------------------------

    def _begin(self, message: Any, peer: Address) -> None:
        source = message.get_srcSystem(), message.get_srcComponent()
        upload = Upload(peer, source, message.mission_type, message.count, planid.read(message))
        if upload.kind not in (MISSION, FENCE):
            self._ack(upload, self._d.MAV_MISSION_UNSUPPORTED)
        elif upload.count > ITEMS_MAX:
            self._ack(upload, self._d.MAV_MISSION_NO_SPACE)
        elif upload.count == 0:
            self._store(upload)
        else:
            self._upload = upload
            self._ask(upload)

    def _ask(self, upload: Upload) -> None:
        upload.asked_s = self._autopilot.now_s
        request = self._endpoint.mav.mission_request_int_encode(*upload.source, len(upload.items), upload.kind)
        self._endpoint.answer(request, upload.peer)

    def _item(self, message: Any, peer: Address) -> None:
        upload = self._upload
        if upload is None or upload.peer != peer or upload.kind != message.mission_type:
            done = self._finished
            if done is not None and done.peer == peer and message.seq == done.count - 1:
                self._ack(done, self._d.MAV_MISSION_ACCEPTED)
            return
        if message.seq != len(upload.items):
            return  # a duplicate, or ahead of what was asked for
        upload.items.append(message)
        upload.tries = 0
        if len(upload.items) < upload.count:
            self._ask(upload)
        else:
            self._upload = None
            self._store(upload)

    def _store(self, upload: Upload) -> None:
        upload.plan_id = upload.plan_id or _checksum(upload.items)
        try:
            if upload.kind == MISSION:
                self._autopilot.load([self._to_item(message) for message in upload.items], upload.plan_id)
            else:
                zones = self._to_zones(upload.items)
                self._autopilot.fence = replace(self._autopilot.fence, zones=zones, id=upload.plan_id if zones else 0)
                self._fence_wire = tuple(upload.items)
        except Invalid as error:
            self._endpoint.refuse(error)
            self._ack(upload, self._d.MAV_MISSION_INVALID)
            return
        except _Unsupported as error:
            self._endpoint.refuse(error)
            self._ack(upload, self._d.MAV_MISSION_UNSUPPORTED)
            return
        self._finished = upload
        self._ack(upload, self._d.MAV_MISSION_ACCEPTED)
        self._endpoint.mission_current(upload.peer)

    def _ack(self, upload: Upload, result: int) -> None:
        accepted = result == self._d.MAV_MISSION_ACCEPTED
        message = self._endpoint.mav.mission_ack_encode(*upload.source, result, upload.kind)
        packet = planid.pack(self._endpoint.mav, message, upload.plan_id if accepted else 0)
        self._endpoint.answer_packed(packet, upload.peer)

    def _place(self, message: Any) -> tuple[float, float, float]:
        d = self._d
        if message.frame in (d.MAV_FRAME_LOCAL_ENU,):
            return message.x / 1e4, message.y / 1e4, message.z
        if message.frame in (d.MAV_FRAME_LOCAL_NED,):
            return message.y / 1e4, message.x / 1e4, -message.z
        known = (
            d.MAV_FRAME_GLOBAL, d.MAV_FRAME_GLOBAL_INT, d.MAV_FRAME_GLOBAL_RELATIVE_ALT,
            d.MAV_FRAME_GLOBAL_RELATIVE_ALT_INT, d.MAV_FRAME_MISSION,
        )  # fmt: skip
        if message.frame not in known:
            raise Invalid(f"item {message.seq}: frame {message.frame}")
        return self._endpoint.local(message.x, message.y, message.z)

    def _to_item(self, message: Any) -> Item:
        try:
            command = Command(message.command)
        except ValueError:
            raise _Unsupported(f"item {message.seq}: command {message.command}") from None
        wire = (
            message.frame, message.command, message.param1, message.param2, message.param3, message.param4,
            message.x, message.y, message.z, message.autocontinue,
        )  # fmt: skip
        place = self._place(message) if command in PLACED else None
        if place is not None and not (message.x or message.y):
            # No place given: a take-off is from where it stands, a landing is where it then is.
            home = self._autopilot.home_m
            place = {Command.TAKEOFF: (home[0], home[1], place[2]), Command.LAND: None}.get(command, place)
        return Item(command, place, message.param1, message.param2, wire)

    def _to_zones(self, messages: list[Any]) -> tuple[Polygon | Circle, ...]:
        """Fence items: runs of vertices, each with the count of its polygon in param1, and circles."""
        d = self._d
        vertices = {
            d.MAV_CMD_NAV_FENCE_POLYGON_VERTEX_INCLUSION: True,
            d.MAV_CMD_NAV_FENCE_POLYGON_VERTEX_EXCLUSION: False,
        }
        circles = {d.MAV_CMD_NAV_FENCE_CIRCLE_INCLUSION: True, d.MAV_CMD_NAV_FENCE_CIRCLE_EXCLUSION: False}
        zones: list[Polygon | Circle] = []
        i = 0
        while i < len(messages):
            message = messages[i]
            place = self._place(message)[:2]
            if message.command in circles:
                if not message.param1 > 0.0:
                    raise Invalid(f"fence item {i}: radius {message.param1:g}")
                zones.append(Circle(place, message.param1, circles[message.command]))
                i += 1
            elif message.command in vertices:
                count = int(message.param1) if math.isfinite(message.param1) else 0
                run = messages[i : i + count]
                if count < 3 or len(run) < count or any(other.command != message.command for other in run):
                    raise Invalid(f"fence item {i}: a polygon of {count} vertices")
                zones.append(Polygon(tuple(self._place(other)[:2] for other in run), vertices[message.command]))
                i += count
            else:
                raise _Unsupported(f"fence item {i}: command {message.command}")
        return tuple(zones)

    # -- download and clear -------------------------------------------------------------------------------------

    def _count(self, message: Any, peer: Address) -> None:
        kind = message.mission_type
        count, plan = (
            (len(self._autopilot.items), self._autopilot.plan_id)
            if kind == MISSION
            else (len(self._fence_wire) if kind == FENCE else 0, self._autopilot.fence.id)
        )
        source = message.get_srcSystem(), message.get_srcComponent()
        encoded = self._endpoint.mav.mission_count_encode(*source, count, kind)
        self._endpoint.answer_packed(planid.pack(self._endpoint.mav, encoded, plan), peer)

    def _give(self, message: Any, peer: Address) -> None:
        source = message.get_srcSystem(), message.get_srcComponent()
        kind, seq = message.mission_type, message.seq
        items = [item.wire for item in self._autopilot.items] if kind == MISSION else self._fence_rows()
        if kind not in (MISSION, FENCE) or not 0 <= seq < len(items):
            nothing = Upload(peer, source, kind, 0, 0)
            self._ack(nothing, self._d.MAV_MISSION_INVALID_SEQUENCE)
            return
        frame, command, p1, p2, p3, p4, x, y, z, go_on = items[seq]
        current = int(kind == MISSION and seq == self._autopilot.current)
        item = self._endpoint.mav.mission_item_int_encode(
            *source, seq, int(frame), int(command), current, int(go_on), p1, p2, p3, p4, int(x), int(y), z, kind
        )
        self._endpoint.answer(item, peer)

    def _fence_rows(self) -> list[tuple[float, ...]]:
        return [
            (m.frame, m.command, m.param1, m.param2, m.param3, m.param4, m.x, m.y, m.z, m.autocontinue)
            for m in self._fence_wire
        ]

    def _clear(self, message: Any, peer: Address) -> None:
        source = message.get_srcSystem(), message.get_srcComponent()
        for kind in (MISSION, FENCE) if message.mission_type == 255 else (message.mission_type,):
            if kind in (MISSION, FENCE):
                self._store(Upload(peer, source, kind, 0, 0))


class _Unsupported(QaiError):
    """A plan item this vehicle does not know."""


def _checksum(messages: list[Any]) -> int:
    """An id for a plan whose sender gave none: CRC-32 of what was said."""
    rows = [(m.frame, m.command, m.param1, m.param2, m.param3, m.param4, m.x, m.y, m.z) for m in messages]
    return zlib.crc32(msgspec.msgpack.encode(rows)) if rows else 0
