"""The vehicle's MAVLink side: what it tells, what it is told, and the transfers.

`Endpoint.receive` takes one datagram from one peer, `Endpoint.tick` is called once per barrier and sends what is
due. Every peer that sent a valid packet lately hears all telemetry; answers go to who asked. Datagrams are lost
both ways with the probability and seed given, so that a flight over a bad link can be repeated. A datagram that
is not MAVLink is counted and dropped.

Plan transfer is the standard mission protocol for missions and fences; see `planid` for the ids. The vehicle asks
again for an item it does not get, and gives a transfer up after ten tries, as a real one does.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

from qaios.core.errors import QaiError
from qaios.robotics.geo import Origin
from qaios.robotics.vehicle import planid
from qaios.robotics.vehicle.airlog import AirLog
from qaios.robotics.vehicle.autopilot import Autopilot
from qaios.robotics.vehicle.commands import Commands
from qaios.robotics.vehicle.plan import FlightMode, MissionState
from qaios.robotics.vehicle.telemetry import Telemetry
from qaios.robotics.vehicle.transfer import Transfer
from qaios.worlds.wire import Sense

Address = tuple[str, int]

PEER_S = 60.0  # a peer not heard for so long is forgotten
CONTACT_S = 10.0
COMPONENT = 1


class Endpoint:
    """One vehicle on the wire. `send(datagram, address)` is how bytes leave."""

    def __init__(
        self,
        autopilot: Autopilot,
        frame: Origin,
        epoch_s: float,
        send: Callable[[bytes, Address], None],
        *,
        loss: float = 0.0,
        seed: int = 0,
    ) -> None:
        from pymavlink.dialects.v20 import common

        self.dialect = common
        self.mav = common.MAVLink(None, srcSystem=autopilot.sysid, srcComponent=COMPONENT)
        self.autopilot, self.frame, self.epoch_s = autopilot, frame, epoch_s
        self.log = AirLog(frame)
        self.malformed = 0
        self._send = send
        self._loss = loss
        self._random = random.Random(f"{seed}/{autopilot.sysid}/loss")
        self._peers: dict[Address, float] = {}
        self.telemetry = Telemetry(self)
        self._commands = Commands(self)
        self._transfer = Transfer(self)

    # -- in -----------------------------------------------------------------------------------------------------

    def receive(self, datagram: bytes, peer: Address) -> None:
        """Take one datagram; anything in it that is not for this vehicle is ignored."""
        if self._loss and self._random.random() < self._loss:
            return
        for message in self._messages(datagram):
            self._peers[peer] = self.autopilot.now_s
            target = getattr(message, "target_system", 0)
            if message.get_srcSystem() != self.autopilot.sysid and target in (0, self.autopilot.sysid):
                self._take(message, peer)

    def _messages(self, datagram: bytes) -> Iterator[Any]:
        """Every good packet of a datagram; the rest is skipped."""
        start = 0
        while start < len(datagram):
            size = self._packet_bytes(datagram, start)
            try:
                message = self.mav.decode(bytearray(datagram[start : start + size])) if size else None
            except self.dialect.MAVError:
                message = None
            if message is None:
                self.malformed += 1
                return
            if message.get_msgId() >= 0:
                yield message
            start += size

    @staticmethod
    def _packet_bytes(datagram: bytes, start: int) -> int:
        """Length of the packet that begins at `start`, 0 when none does."""
        left = len(datagram) - start
        if left >= 12 and datagram[start] == 0xFD:
            size = 12 + datagram[start + 1] + (13 if datagram[start + 2] & 1 else 0)
        elif left >= 8 and datagram[start] == 0xFE:
            size = 8 + datagram[start + 1]
        else:
            return 0
        return size if size <= left else 0

    def _take(self, message: Any, peer: Address) -> None:
        kind = message.get_type()
        if kind == "HEARTBEAT":
            if message.autopilot == self.dialect.MAV_AUTOPILOT_INVALID:
                self.autopilot.watch.heard(self.autopilot.now_s)
        elif kind in Transfer.KINDS:
            self._transfer.take(message, peer)
        elif kind in Commands.KINDS:
            self._commands.take(message, peer)
        elif kind.startswith("LOG_"):
            self.log.take(self, message, peer)

    # -- out ----------------------------------------------------------------------------------------------------

    def tick(self, sense: Sense) -> None:
        """Everything due at this barrier."""
        for sample in sense.air:
            self.log.add(sample, sense.position_m)
            self.broadcast(self.mav.named_value_float_encode(round(sample.t_s * 1000.0), b"pm25", sample.pm25_ugm3))
        for peer in [peer for peer, heard in self._peers.items() if sense.t_s - heard > PEER_S]:
            del self._peers[peer]
        self._transfer.tick(sense.t_s)
        if self._peers:
            self.telemetry.tick(sense)

    @property
    def contact(self) -> bool:
        """A peer has spoken within the last seconds."""
        return any(self.autopilot.now_s - heard < CONTACT_S for heard in self._peers.values())

    def broadcast(self, message: Any) -> None:
        """To every peer."""
        if self._peers:
            self._out(bytes(message.pack(self.mav)), list(self._peers))

    def answer(self, message: Any, peer: Address) -> None:
        """To the one who asked."""
        self._out(bytes(message.pack(self.mav)), [peer])

    def answer_packed(self, packet: bytes, peer: Address) -> None:
        self._out(packet, [peer])

    def _out(self, packet: bytes, peers: list[Address]) -> None:
        self.mav.seq = (self.mav.seq + 1) % 256
        for peer in peers:
            if not self._loss or self._random.random() >= self._loss:
                self._send(packet, peer)

    def say(self, severity: int, text: str) -> None:
        """STATUSTEXT to everyone."""
        self.broadcast(self.mav.statustext_encode(severity, text.encode()[:50]))

    def reached(self, seq: int) -> None:
        """MISSION_ITEM_REACHED and the new MISSION_CURRENT, at once."""
        self.broadcast(self.mav.mission_item_reached_encode(seq))

    def mission_current(self, peer: Address | None = None) -> None:
        """MISSION_CURRENT with the ids of the plans, to `peer` or to all."""
        autopilot = self.autopilot
        executing = 1 if autopilot.mode is FlightMode.MISSION else 2
        total = len(autopilot.items) or 0xFFFF
        state = autopilot.mission if autopilot.items else MissionState.NO_MISSION
        message = self.mav.mission_current_encode(autopilot.current, total, int(state), executing)
        packet = planid.pack(self.mav, message, autopilot.plan_id, autopilot.fence.id, 0)
        self._out(packet, [peer] if peer else list(self._peers))

    def refuse(self, error: QaiError) -> None:
        """Tell everyone why a command was not done."""
        self.say(self.dialect.MAV_SEVERITY_WARNING, str(error))

    def globe_e7(self, east_m: float, north_m: float) -> tuple[int, int]:
        lon, lat = self.frame.place(east_m, north_m)
        return round(lat * 1e7), round(lon * 1e7)

    def local(self, lat_e7: int, lon_e7: int, up_m: float) -> tuple[float, float, float]:
        east, north = self.frame.local(lon_e7 / 1e7, lat_e7 / 1e7)
        return east, north, up_m if math.isfinite(up_m) else self.autopilot.position_m[2]
