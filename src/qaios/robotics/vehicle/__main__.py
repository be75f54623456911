"""The process of one vehicle: `python -m qaios.robotics.vehicle --world HOST:PORT --name drone-1`.

One socket leads to the vehicle's body (the world: sensors in, setpoints out, in lockstep), one UDP port speaks
MAVLink. A single loop waits on both; MAVLink is answered at once even while the world stands still. It ends when
the world's socket does, and dies with the world (parent-death signal). The token comes in the environment, not on
the command line, where others could read it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import selectors
import signal
import socket
import sys
import traceback

from qaios.core.errors import Invalid, Unreachable
from qaios.robotics.geo import Origin
from qaios.robotics.vehicle.autopilot import SEVERITY_WARNING, Autopilot
from qaios.robotics.vehicle.endpoint import Endpoint
from qaios.robotics.vehicle.plan import Fence, Polygon
from qaios.worlds import wire

TOKEN_VARIABLE = "QAIOS_WORLD_TOKEN"
PR_SET_PDEATHSIG = 1
DATAGRAM_BYTES = 2048
DATAGRAMS_PER_TURN = 64


class Vehicle:
    """The sockets and the loop around one `Autopilot`."""

    def __init__(self, world: socket.socket, unframer: wire.Unframer, welcome: wire.Welcome) -> None:
        self._world, self._unframer = world, unframer
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", 0))
        self._udp.setblocking(False)
        fence = Fence(Polygon(welcome.fence_m, inclusion=True), welcome.ceiling_m)
        self.autopilot = Autopilot(welcome.sysid, welcome.home_m, fence, self._say, self._reached)
        self.endpoint = Endpoint(
            self.autopilot,
            Origin(welcome.lat_deg, welcome.lon_deg),
            welcome.epoch_s,
            self._send,
            loss=welcome.loss,
            seed=welcome.seed,
        )
        self._unsent = 0

    @property
    def port(self) -> int:
        return int(self._udp.getsockname()[1])

    def run(self) -> None:
        """Serve until the world closes its socket."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._world, selectors.EVENT_READ, True)
            selector.register(self._udp, selectors.EVENT_READ, False)
            while True:
                ready = [key.data for key, _ in selector.select()]
                if False in ready:
                    self._hear()
                if True in ready and not self._live():
                    return

    def _live(self) -> bool:
        """Take what the world sent; False at its end."""
        try:
            chunk = self._world.recv(65536)
        except ConnectionError:
            return False
        for body in self._unframer.feed(chunk):
            sense = wire.from_world(body)
            if isinstance(sense, wire.Sense):
                self._world.sendall(wire.frame(self.live_one(sense)))
        return bool(chunk)

    def live_one(self, sense: wire.Sense) -> wire.Setpoint:
        """One barrier: decide first, then tell."""
        setpoint = self.autopilot.step(sense)
        self.endpoint.tick(sense)
        if self.endpoint.contact:
            return wire.Setpoint(
                setpoint.t_s, setpoint.armed, setpoint.velocity_mps, setpoint.yaw_rad, setpoint.beacon, contact=True
            )
        return setpoint

    def _hear(self) -> None:
        for _ in range(DATAGRAMS_PER_TURN):
            try:
                datagram, peer = self._udp.recvfrom(DATAGRAM_BYTES)
            except BlockingIOError:
                return
            try:
                self.endpoint.receive(datagram, peer)
            except Exception:  # noqa: BLE001 - whatever a packet brings about, the vehicle goes on flying, and says so
                sys.stderr.write(traceback.format_exc())
                self._say(SEVERITY_WARNING, "a packet could not be dealt with")

    def _send(self, datagram: bytes, peer: tuple[str, int]) -> None:
        try:
            self._udp.sendto(datagram, peer)
        except OSError:
            self._unsent += 1  # as on any radio, what cannot leave now is lost

    def _say(self, severity: int, text: str) -> None:
        sys.stderr.write(f"{self.autopilot.now_s:9.2f} {text}\n")
        self.endpoint.say(severity, text)

    def _reached(self, seq: int) -> None:
        self.endpoint.reached(seq)


def die_with_parent() -> None:
    """Ask Linux for SIGKILL when the world dies; elsewhere the end of the socket has to do."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def join(address: str, name: str, token: str) -> tuple[socket.socket, wire.Unframer, wire.Welcome]:
    """Connect to the world as vehicle `name`. Raises `Unreachable` or `Invalid`."""
    host, _, port = address.rpartition(":")
    try:
        world = socket.create_connection((host, int(port)), timeout=30.0)
    except OSError as error:
        raise Unreachable(f"no world at {address}: {error}") from error
    world.settimeout(None)
    world.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    world.sendall(wire.frame(wire.Join("vehicle", token, name)))
    unframer = wire.Unframer()
    while chunk := world.recv(65536):
        for body in unframer.feed(chunk):
            answer = wire.from_world(body)
            if isinstance(answer, wire.Welcome):
                return world, unframer, answer
            raise Invalid(f"the world at {address} answered {answer}")
    raise Unreachable(f"the world at {address} closed the connection")


def main() -> None:
    """Join, open MAVLink, say so, serve."""
    parser = argparse.ArgumentParser(prog="qaios.robotics.vehicle")
    parser.add_argument("--world", required=True, help="HOST:PORT of the world")
    parser.add_argument("--name", required=True, help="which vehicle to be, e.g. drone-1")
    options = parser.parse_args()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the kernel, not for what flies
    world, unframer, welcome = join(options.world, options.name, os.environ.pop(TOKEN_VARIABLE, ""))
    vehicle = Vehicle(world, unframer, welcome)
    world.sendall(wire.frame(wire.Ready(vehicle.port, os.getpid())))
    gc.collect()
    gc.freeze()
    vehicle.run()


if __name__ == "__main__":
    main()
