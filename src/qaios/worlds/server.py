"""The world process: `python -m qaios.worlds.server --home DIR --seed N --vehicles 4`.

It is the outside: physics, weather, pollution, and the vehicles' own processes, which it starts. It outlives the
kernel on purpose. Time advances in barriers of 40 ms. In each one the vehicles get their senses, the physics runs
with the setpoints of the barrier before (so both cores work, and a command takes 40 ms, as on a real airframe),
then the setpoints are gathered. A vehicle that dies, or does not answer in time, drops out and its motors stop.

World time runs as fast as it can while a clock client acknowledges it, never more than a small window ahead of
the slowest one; without a clock client it runs at 1x of wall time. A clock client that neither acks nor says it
holds for `patience` wall seconds is no longer waited for until it acks again: a stuck kernel does not stop the
world. When all vehicles are down, and nobody has been connected for a while, the world ends.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import msgspec
import numpy as np

from qaios.core.errors import DeviceFault
from qaios.worlds import wire
from qaios.worlds.clients import Client, Clients
from qaios.worlds.drill import Drills
from qaios.worlds.fleet import BARRIER_S, Fleet
from qaios.worlds.scene import Scene, default_scene, read_scene

TOKEN_VARIABLE = "QAIOS_WORLD_TOKEN"
READY_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a world is started. Times with `wall` in their name are wall time."""

    home: Path
    seed: int = 1
    vehicles: int = 4
    loss: float = 0.0
    epoch_s: float = 0.0  # Unix time at world time zero
    window_s: float = 0.24
    hang_wall_s: float = 2.0
    patience_wall_s: float = 10.0
    idle_wall_s: float = 30.0
    scene: Path | None = None


@dataclass(slots=True)
class Body:
    """One vehicle as the world sees it."""

    name: str
    process: subprocess.Popen[bytes]
    port: int = 0
    client: Client | None = None
    setpoint: wire.Setpoint | None = None
    ended_s: float | None = None
    ended_why: str = ""


class World:
    """One running world."""

    def __init__(self, options: Options, scene: Scene, log: TextIO) -> None:
        self._options, self._log = options, log
        self.fleet = Fleet(scene, options.vehicles, options.seed)
        self._token = secrets.token_urlsafe(24)
        self._clients = Clients(self._token, self._take, self._lost)
        self._drills = Drills(options.seed, options.vehicles)
        self._bodies: list[Body] = []
        self._stopping = False
        self._started_wall_s = self._last_used_wall_s = time.monotonic()
        self._due_wall_s = self._started_wall_s

    # -- life ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start the vehicles, then turn until it is over."""
        try:
            self._spawn()
            self._announce()
            self._last_used_wall_s = self._due_wall_s = time.monotonic()
            while not self._over():
                self._turn()
        finally:
            self._end()

    def _spawn(self) -> None:
        home = self._options.home
        environment = {**os.environ, TOKEN_VARIABLE: self._token}
        for i in range(self._options.vehicles):
            name = f"drone-{i + 1}"
            with (home / "log" / f"vehicle-{name}.log").open("ab") as log:
                address = f"127.0.0.1:{self._clients.port}"
                process = subprocess.Popen(
                    [sys.executable, "-m", "qaios.robotics.vehicle", "--world", address, "--name", name],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    env=environment,
                )  # fmt: skip
            self._bodies.append(Body(name, process))
        deadline = time.monotonic() + READY_TIMEOUT_S
        while any(body.port == 0 for body in self._bodies):
            self._clients.poll(0.2)
            dead = next((body for body in self._bodies if body.process.poll() is not None), None)
            if dead is not None or time.monotonic() > deadline:
                who = dead.name if dead else ", ".join(body.name for body in self._bodies if body.port == 0)
                raise DeviceFault(f"vehicle {who} did not start; see log/vehicle-{who}.log in the home")

    def _announce(self) -> None:
        """Write run/world.json, whole or not at all, readable by the owner only."""
        scene = self.fleet.scene
        path = self._options.home / "run" / "world.json"
        text = json.dumps(
            {
                "pid": os.getpid(),
                "host": "127.0.0.1",
                "port": self._clients.port,
                "token": self._token,
                "seed": self._options.seed,
                "scene": scene.name,
                "epoch_s": self._options.epoch_s,
                "origin": {"lat": scene.lat_deg, "lon": scene.lon_deg},
                "vehicles": [
                    {"name": b.name, "sysid": i + 1, "host": "127.0.0.1", "port": b.port, "pid": b.process.pid}
                    for i, b in enumerate(self._bodies)
                ],
            },
            indent=1,
        )
        draft = path.with_name(f"world.json.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        draft.replace(path)
        self._note(f"ready: {len(self._bodies)} vehicles, seed {self._options.seed}, loss {self._options.loss:g}")

    def _over(self) -> bool:
        now = time.monotonic()
        contact = any(body.setpoint is not None and body.setpoint.contact for body in self._live())
        in_use = contact or any(client.role != "vehicle" for client in self._clients.all)
        flying = bool((self.fleet.armed & self.fleet.live).any())
        if in_use or flying:
            self._last_used_wall_s = now
        if now - self._last_used_wall_s > self._options.idle_wall_s:
            self._note(f"nobody has needed this world for {self._options.idle_wall_s:g} s: ending")
            return True
        return self._stopping

    def _end(self) -> None:
        for body in self._bodies:
            body.process.kill()
        for body in self._bodies:
            body.process.wait()
        self._clients.close_all()
        path = self._options.home / "run" / "world.json"
        if path.exists() and json.loads(path.read_text())["pid"] == os.getpid():
            path.unlink()
        self._note("ended")

    def stop(self) -> None:
        """End at the next turn."""
        self._stopping = True

    def _note(self, text: str) -> None:
        self._log.write(f"{self.fleet.t_s:9.2f} {text}\n")
        self._log.flush()

    # -- one barrier --------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        fleet = self.fleet
        for i, body in enumerate(self._bodies):
            if body.client is not None:
                body.setpoint = None
                self._clients.send(body.client, wire.frame(fleet.sense(i)))
        fleet.advance()
        self._gather()
        for i, body in enumerate(self._bodies):
            if body.client is not None and body.setpoint is not None:
                s = body.setpoint
                fleet.command(i, armed=s.armed, velocity_mps=s.velocity_mps, yaw_rad=s.yaw_rad, beacon=s.beacon)
        self._drill()
        tick = wire.frame(wire.Tick(fleet.t_s))
        for client in self._clients.of("clock"):
            self._clients.send(client, tick)
        self._pace()

    def _live(self) -> list[Body]:
        return [body for body in self._bodies if body.client is not None]

    def _gather(self) -> None:
        """Wait for the setpoint of every live vehicle. Only time spent waiting here counts as hanging."""
        waited_s = 0.0
        while any(body.setpoint is None for body in self._live()):
            before = time.monotonic()
            self._clients.poll(0.25)
            waited_s += min(0.25, time.monotonic() - before)
            if waited_s < self._options.hang_wall_s:
                continue
            for body in self._live():
                if body.setpoint is None and body.client is not None:
                    self._drop(body, f"hung: no setpoint for {waited_s:.1f} s of wall time")

    def _drop(self, body: Body, why: str) -> None:
        """A vehicle is lost: its motors stop, the others go on."""
        client, body.client = body.client, None
        if body.ended_s is not None or client is None:
            return
        body.ended_s, body.ended_why = self.fleet.t_s, why
        self.fleet.stop(self._bodies.index(body))
        self._note(f"{body.name} lost: {why}")
        body.process.kill()
        self._clients.close(client)

    def _drill(self) -> None:
        flying = [
            body.client is not None and bool(armed) and bool(up)
            for body, armed, up in zip(self._bodies, self.fleet.armed, self.fleet.airborne, strict=True)
        ]
        victim = self._drills.due(self.fleet.t_s, flying)
        if victim is not None:
            body = self._bodies[victim]
            self._note(f"drill: SIGKILL to {body.name}")
            body.process.kill()
            body.process.wait()
            self._drop(body, "killed by a drill")

    def _pace(self) -> None:
        """Serve the clients, and wait while time may not go on."""
        self._clients.poll(0.0)
        while not self._stopping:
            now = time.monotonic()
            clocks = [client for client in self._clients.of("clock") if self._waited_for(client, now)]
            if clocks:
                behind = self.fleet.t_s - min(client.acked_s for client in clocks)
                self._due_wall_s = now
                if behind < self._options.window_s:
                    return
                self._clients.poll(0.25)
                continue
            # At 1x; time that was lost is not caught up.
            if self._due_wall_s <= now:
                self._due_wall_s = max(self._due_wall_s, now - BARRIER_S) + BARRIER_S
                return
            self._clients.poll(self._due_wall_s - now)

    def _waited_for(self, client: Client, now: float) -> bool:
        return client.holding or now - client.heard_wall_s < self._options.patience_wall_s

    # -- frames -------------------------------------------------------------------------------------------------

    def _take(self, client: Client, message: wire.ToWorld) -> None:
        match message:
            case wire.Setpoint() if client.index >= 0:
                self._bodies[client.index].setpoint = message
            case wire.Ack():
                client.acked_s = max(client.acked_s, message.t_s)
                client.holding = message.holding
                client.heard_wall_s = time.monotonic()
            case wire.Join():
                self._join(client)
            case wire.Ready() if client.index >= 0:
                self._bodies[client.index].port = message.port
            case wire.AskTruth(grid=grid):
                if not 1 <= grid.columns * grid.rows <= 250_000:
                    self._clients.deny(client, f"a grid of {grid.columns} x {grid.rows} points; at most 250 000")
                    return
                values = tuple(np.round(self.fleet.field.on_grid(grid), 6).ravel().tolist())
                self._answer(client, wire.Truth(grid, values, self.fleet.t_s))
            case wire.AskStations():
                self._answer(client, wire.Stations(self.fleet.stations()))
            case wire.AskMetrics():
                self._answer(client, self.metrics())
            case wire.ArmDrill():
                self._answer(client, self._drills.arm(message, self.fleet.t_s))
                self._note(f"drill {message.key} armed")
            case wire.DisarmDrill(key=key):
                self._answer(client, self._drills.disarm(key))
            case wire.AskDrill(key=key):
                self._answer(client, self._drills.state(key))
            case wire.Shutdown():
                self.stop()
            case _:
                self._clients.deny(client, f"a {client.role} may not send {type(message).__name__}")

    def _answer(self, client: Client, message: wire.FromWorld) -> None:
        self._clients.send(client, wire.frame(message))

    def _join(self, client: Client) -> None:
        scene, options = self.fleet.scene, self._options
        welcome = wire.Welcome(options.epoch_s, self.fleet.t_s, options.seed, scene.lat_deg, scene.lon_deg)
        if client.role == "vehicle":
            index = next((i for i, body in enumerate(self._bodies) if body.name == client.name), -1)
            if index < 0 or self._bodies[index].port or self._bodies[index].client is not None:
                self._clients.deny(client, f"no free vehicle {client.name!r} here")
                return
            client.index = index
            self._bodies[index].client = client
            east, north = scene.pads_m[index]
            welcome = msgspec.structs.replace(
                welcome,
                sysid=index + 1,
                home_m=(east, north, float(self.fleet.positions_m[index, 2])),
                fence_m=scene.fence_m,
                ceiling_m=scene.ceiling_m,
                loss=options.loss,
            )
        elif client.role == "clock":
            client.acked_s, client.heard_wall_s = self.fleet.t_s, time.monotonic()
            self._note("a clock client leads")
        self._answer(client, welcome)

    def _lost(self, client: Client) -> None:
        if client.role == "clock":
            self._due_wall_s = time.monotonic()
            self._note("a clock client left")
        if client.index >= 0 and self._bodies[client.index].client is client:
            self._drop(self._bodies[client.index], "its process is gone")

    # -- truth --------------------------------------------------------------------------------------------------

    def metrics(self) -> wire.Metrics:
        """Ground truth so far."""
        fleet, ledger = self.fleet, self.fleet.ledger
        positions = fleet.positions_m
        vehicles = tuple(
            wire.VehicleTruth(
                name=body.name,
                sysid=i + 1,
                state=self._state(i, body),
                position_m=tuple(positions[i].tolist()),
                battery_fraction=float(fleet.batteries.fraction[i]),
                battery_min_fraction=float(ledger.min_battery[i]),
                energy_j=float(fleet.batteries.used_j[i]),
                flown_m=float(ledger.flown_m[i]),
                contacts=int(ledger.contacts[i]),
                ended_s=body.ended_s,
                ended_why=body.ended_why,
            )
            for i, body in enumerate(self._bodies)
        )
        return wire.Metrics(
            fleet.t_s,
            ledger.min_separation_m,
            float(ledger.min_battery.min()),
            vehicles,
            time.monotonic() - self._started_wall_s,
            fleet.digest(),
        )

    def _state(self, index: int, body: Body) -> str:
        if body.ended_s is not None:
            return "dead"
        if self.fleet.ledger.crashed[index]:
            return "crashed"
        return "flying" if self.fleet.armed[index] and self.fleet.airborne[index] else "ready"


def main() -> None:
    """Parse, open the log, run."""
    parser = argparse.ArgumentParser(prog="qaios.worlds.server")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--scene", type=Path, default=None, help="a scene as JSON; the default scene when not given")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vehicles", type=int, default=4)
    parser.add_argument("--loss", type=float, default=0.0, help="probability that a datagram is lost, each way")
    parser.add_argument("--epoch-s", type=float, default=0.0, help="Unix time at world time zero")
    parser.add_argument("--window-s", type=float, default=0.24)
    parser.add_argument("--hang-wall-s", type=float, default=2.0)
    parser.add_argument("--patience-wall-s", type=float, default=10.0)
    parser.add_argument("--idle-wall-s", type=float, default=30.0)
    options = Options(**vars(parser.parse_args()))
    scene = read_scene(options.scene.read_bytes()) if options.scene else default_scene()
    for room in ("log", "run"):
        (options.home / room).mkdir(parents=True, exist_ok=True)
    with (options.home / "log" / "world.log").open("a") as log:
        world = World(options, scene, log)
        signal.signal(signal.SIGTERM, lambda *_: world.stop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        world.run()


if __name__ == "__main__":
    main()
