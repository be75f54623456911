"""Start a world process, or find the one that runs.

The world is started detached (its own session) because it must outlive whoever starts it. `attach` believes
run/world.json only when the process it names lives and answers on its port with its token.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qaios.core.errors import Conflict, DeviceFault, Invalid, NotFound, Unreachable
from qaios.worlds import wire

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class VehicleAddress:
    """Where one vehicle speaks MAVLink (UDP)."""

    name: str
    sysid: int
    host: str
    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class WorldAddress:
    """What run/world.json says."""

    pid: int
    host: str
    port: int
    token: str
    seed: int
    scene: str
    epoch_s: float
    lat_deg: float
    lon_deg: float
    vehicles: tuple[VehicleAddress, ...]


def launch(
    home: Path | str,
    *,
    seed: int = 1,
    vehicles: int = 4,
    loss: float = 0.0,
    epoch_s: float | None = None,
    scene: Path | None = None,
    window_s: float = 0.24,
    idle_wall_s: float = 30.0,
    hang_wall_s: float = 2.0,
    patience_wall_s: float = 10.0,
) -> WorldAddress:
    """Start a world and wait until its vehicles are ready; blocks a second or two.

    `epoch_s` is the Unix time of world time zero; None takes the present. Raises `Conflict` when this home has a
    live world, `DeviceFault` when the new one does not come up (its log is in the home).
    """
    home = Path(home)
    if _live(home):
        raise Conflict(f"{home} has a running world already", hint="attach to it, or shut it down first")
    (home / "log").mkdir(parents=True, exist_ok=True)
    (home / "run").mkdir(parents=True, exist_ok=True)
    path = home / "run" / "world.json"
    path.unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "qaios.worlds.server", "--home", str(home), "--seed", str(seed),
        "--vehicles", str(vehicles), "--loss", str(loss),
        "--epoch-s", repr(time.time() if epoch_s is None else epoch_s),
        "--window-s", str(window_s), "--idle-wall-s", str(idle_wall_s),
        "--hang-wall-s", str(hang_wall_s), "--patience-wall-s", str(patience_wall_s),
    ]  # fmt: skip
    if scene is not None:
        command += ["--scene", str(scene)]
    errors = home / "log" / "world.err"
    with errors.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while not path.exists():
        if process.poll() is not None:
            last = errors.read_text(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise DeviceFault(f"the world did not start: {last[0]}", hint=f"see {errors}")
        if time.monotonic() > deadline:
            process.kill()
            raise DeviceFault(f"the world was not ready after {START_TIMEOUT_S:.0f} s", hint=f"see {home / 'log'}")
        time.sleep(POLL_S)
    return read(home)


def attach(home: Path | str) -> WorldAddress:
    """The live world of this home. Raises `NotFound` when there is no file, `Unreachable` when nobody is behind it."""
    address = read(Path(home))
    try:
        with socket.create_connection((address.host, address.port), timeout=5.0) as connection:
            connection.sendall(wire.frame(wire.Join("observer", address.token)))
            unframer = wire.Unframer()
            answers: list[wire.FromWorld] = []
            while not answers and (chunk := connection.recv(4096)):
                answers = [wire.from_world(body) for body in unframer.feed(chunk)]
    except (OSError, Invalid) as error:
        raise Unreachable(f"no world answers at {address.host}:{address.port}: {error}") from error
    if not (answers and isinstance(answers[0], wire.Welcome)):
        raise Unreachable(f"who listens at {address.host}:{address.port} is not the world of {home}")
    return address


def stop(home: Path | str, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """End the world of this home and its vehicles, wherever they are. False when none runs.

    Raises `Conflict` when it has not ended in time.
    """
    try:
        address = attach(home)
    except (NotFound, Unreachable, Invalid):
        return False
    with socket.create_connection((address.host, address.port), timeout=5.0) as connection:
        connection.sendall(wire.frame(wire.Join("observer", address.token)) + wire.frame(wire.Shutdown()))
        connection.settimeout(timeout_s)
        try:
            while connection.recv(4096):
                pass
        except TimeoutError:
            raise Conflict(f"the world (process {address.pid}) has not ended in {timeout_s:g} s") from None
        except ConnectionError:
            pass  # Reset instead of closed: it has ended all the same.
    return True


def read(home: Path) -> WorldAddress:
    """run/world.json as it is, without asking whether anybody is there."""
    path = home / "run" / "world.json"
    try:
        said: dict[str, Any] = json.loads(path.read_text())
        return WorldAddress(
            pid=said["pid"],
            host=said["host"],
            port=said["port"],
            token=said["token"],
            seed=said["seed"],
            scene=said["scene"],
            epoch_s=said["epoch_s"],
            lat_deg=said["origin"]["lat"],
            lon_deg=said["origin"]["lon"],
            vehicles=tuple(VehicleAddress(**vehicle) for vehicle in said["vehicles"]),
        )
    except FileNotFoundError:
        raise NotFound(f"no simulated world in {home}", hint="start one with `launch`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(f"{path} is not what a world writes: {error}") from error


def _live(home: Path) -> bool:
    try:
        attach(home)
    except (NotFound, Unreachable, Invalid):
        return False
    return True
