"""The simulated world as a device: drills during a flight, and the truth after it.

    world.drill    SIGKILL one flying vehicle's process; which one and exactly when come from the world's seed
    world.metrics  ground truth of the flight so far: separation, batteries, contacts, who died when
    world.truth    the noise-free pollution on a grid, to compare a map with

Only a simulation has such a device. It talks to the world process as an observer; the drill lives in the world,
so it happens once whatever becomes of the kernel, and `recall` asks the world. What the world cannot remember (a
world that has been started anew) is `Unknown`, not `Never`: a ledger says which world had the drill.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import msgspec

from qaios.bridge.references import refers
from qaios.contracts import Attempt, Device, Driver, Isolation, Site
from qaios.core.errors import DeviceFault, DeviceLost, Invalid, QaiError, Refused, Unreachable
from qaios.core.values import (
    ActionSpec,
    DeviceSpec,
    DeviceStatus,
    Done,
    Effect,
    Estimate,
    HaltRecipe,
    Never,
    Reading,
    Recall,
    Result,
    Running,
    Shape,
    Task,
    Unit,
    Unknown,
)
from qaios.drivers.ledger import Ledger
from qaios.drivers.once import Once
from qaios.worlds import wire
from qaios.worlds.launch import WorldAddress, attach
from qaios.worlds.observer import Observer

DRILL = ActionSpec(
    name="world.drill",
    summary="Kill the process of one flying vehicle; the world's seed says which and when.",
    effect=Effect.EFFECTFUL,
    parameters={
        "after_s": "seconds from now before which nothing happens (20)",
        "window_s": "length of the window in which it happens, seconds (10)",
    },
)
METRICS = ActionSpec(name="world.metrics", summary="Ground truth of the flight so far.")
TRUTH = ActionSpec(
    name="world.truth",
    summary="Noise-free PM2.5 on a grid, ug/m3.",
    parameters={
        "area": "{west_m, south_m, east_m, north_m}; the area of the scene when not given",
        "step_m": "distance between two points, metres (4)",
        "height_m": "above ground, metres (12)",
    },
)
AFTER_S, WINDOW_S, STEP_M, HEIGHT_M = 20.0, 10.0, 4.0, 12.0
POINTS_MAX = 250_000
POLL_S = 0.2
AREA_M = {"west_m": -60.0, "south_m": -60.0, "east_m": 60.0, "north_m": 60.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldConfig:
    name: str = "world"


class World:
    """Implements `Device` on the world of its site."""

    def __init__(self, config: WorldConfig, site: Site) -> None:
        self._spec = DeviceSpec(
            name=config.name,
            driver="world",
            kind="world",
            actions=(DRILL, METRICS, TRUTH),
            capacity=4,
            simulated=True,
            summary="The simulated world itself: MuJoCo physics, Dryden gusts, Gaussian plume. Truth no real site has.",
        )
        self._site = site
        self._ledger = Ledger(Path(site.home) / "devices" / config.name / "ledger")
        self._once = Once(kept_max=256)
        self._stack: AsyncExitStack | None = None
        self._observer: Observer | None = None
        self._address: WorldAddress | None = None
        self._armed: set[str] = set()

    @property
    def spec(self) -> DeviceSpec:
        return self._spec

    # -- life ---------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        stack = AsyncExitStack()
        try:
            await asyncio.to_thread(self._ledger.open)
            self._address = await asyncio.to_thread(attach, self._site.home)
            address = self._address
            observer = Observer.connect(address.host, address.port, address.token)
            self._observer = await stack.enter_async_context(observer)
        except QaiError as error:
            await stack.aclose()
            raise DeviceFault(f"{self._spec.name}: {error}", hint=error.hint) from error
        self._stack = stack
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self._once.close()
        self._observer = None
        if self._stack is not None:
            await self._stack.aclose()
            self._stack = None

    def status(self) -> DeviceStatus:
        return DeviceStatus(pid=self._address.pid if self._observer and self._address else None)

    def _open(self) -> Observer:
        if self._observer is None:
            raise DeviceFault(f"{self._spec.name} is not open")
        return self._observer

    # -- doing --------------------------------------------------------------------------------------------------

    def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
        return [_estimate(shape) for shape in shapes]

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        if fault := _fault(task.action, task.arguments):
            raise Refused(fault)
        self._open()
        self._once.admit(attempt.epoch)
        return await self._once.run(attempt.key, lambda: self._do(task, attempt))

    async def _do(self, task: Task, attempt: Attempt) -> Result:
        provenance = {"simulated": True, "seed": self._address.seed if self._address else 0}
        try:
            if task.action == DRILL.name:
                return await self._drill(task.arguments, attempt)
            if task.action == METRICS.name:
                return Result(_plain(await self._open().metrics()), provenance=provenance)
            return Result(await self._truth(task.arguments), provenance=provenance)
        except (Unreachable, OSError) as error:
            raise DeviceLost(f"{self._spec.name}: {error}") from error

    async def _drill(self, arguments: Mapping[str, Any], attempt: Attempt) -> Result:
        observer, key = self._open(), attempt.key
        after_s = float(arguments.get("after_s", AFTER_S))
        # Drawn here, so that it can be told: the same seed and the same window have the same moment.
        draw = Random(f"drill {self._address.seed if self._address else 0}").random()
        after_s = round(after_s + draw * float(arguments.get("window_s", WINDOW_S)), 2)
        # Before the drill is armed: a crash in between leaves a key this world has never heard of, which is `Never`.
        where = f"{self._here()} {after_s!r}"
        await asyncio.to_thread(self._ledger.began, key, epoch=attempt.epoch, where=where)
        self._armed.add(key)
        try:
            drill = await observer.arm_drill(key, after_s, after_s)
            attempt.progress(0.1, "armed")
            while drill.state in ("armed", "waiting"):
                await attempt.clock.sleep(POLL_S)
                drill = await observer.drill(key)
        except asyncio.CancelledError:
            # Calling it off needs the answer, or it may still happen after we said it was stopped.
            if not attempt.leaving:
                with suppress(Unreachable, OSError):
                    await self._call_off(key)
            raise
        finally:
            self._armed.discard(key)
        if drill.state != "done":
            raise DeviceFault(f"the drill was called off ({drill.state})", retryable=False)
        return self._result(drill, after_s)

    async def _call_off(self, key: str) -> None:
        """Disarm on a connection of its own: the cancelled question may have spoilt the other."""
        address = self._address
        if address is not None:
            async with Observer.connect(address.host, address.port, address.token) as observer:
                await observer.disarm_drill(key)

    def _result(self, drill: wire.Drill, after_s: float) -> Result:
        address = self._address
        epoch_s = address.epoch_s if address else 0.0
        value = {"vehicle": drill.vehicle, "after_s": after_s, "killed_s": epoch_s + (drill.killed_s or 0.0)}
        return Result(value, provenance={"simulated": True, "seed": address.seed if address else 0})

    async def _truth(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        grid = _grid(arguments)
        values = await self._open().truth(grid)
        return {
            "west_m": grid.west_m,
            "south_m": grid.south_m,
            "east_m": _axis(grid.west_m, grid.east_m, grid.columns),
            "north_m": _axis(grid.south_m, grid.north_m, grid.rows),
            "height_m": grid.height_m,
            "pm25_ug_m3": values.tolist(),
        }

    # -- stopping, reading, remembering -------------------------------------------------------------------------

    async def halt(self) -> None:
        """Call off every drill that has not happened. The vehicles have their own halt."""
        for key in list(self._armed):
            with suppress(QaiError, OSError):
                await self._call_off(key)

    def halt_recipes(self) -> Sequence[HaltRecipe]:
        return ()

    async def observe(self) -> Sequence[Reading]:
        metrics = await self._open().metrics()
        now_s = self._site.clock.now_s()
        readings = [
            Reading("world.time", metrics.t_s, Unit.SECOND, now_s),
            Reading("world.battery_min", metrics.min_battery_fraction, Unit.ONE, now_s),
            Reading("world.flying", float(sum(v.state == "flying" for v in metrics.vehicles)), Unit.ONE, now_s),
        ]
        if math.isfinite(metrics.min_separation_m):
            readings.append(Reading("world.separation_min", metrics.min_separation_m, Unit.METRE, now_s))
        return readings

    async def recall(self, key: str) -> Recall:
        known = self._once.recall(key)
        if not isinstance(known, Never):
            return known
        try:
            entry = await asyncio.to_thread(self._ledger.find, key)
        except (OSError, msgspec.MsgspecError) as error:
            return Unknown(f"its ledger entry is damaged: {error}")
        if entry is None:
            return Never()
        world, _, after = entry.where.partition(" ")
        after_s = float(after or 0.0)
        try:
            drill = await self._open().drill(key)
        except (QaiError, OSError) as error:
            return Unknown(f"the world that had the drill does not answer: {error}")
        if drill.state == "done":
            return Done(self._result(drill, after_s))
        if drill.state in ("armed", "waiting"):
            return Running(key)
        if drill.state == "disarmed" or world == self._here():
            return Never()
        return Unknown("the world that had the drill is gone, and what it did with it")

    def _here(self) -> str:
        return f"{self._address.pid}/{self._address.epoch_s!r}" if self._address else ""


def _number(arguments: Mapping[str, Any], name: str, default: float, low: float, high: float) -> str:
    """What is wrong with a numeric argument; empty when nothing is. A reference not yet resolved is let through."""
    value = arguments.get(name, default)
    if refers(value):
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        return f"{name} is {value!r}: give a number from {low:g} to {high:g}"
    return ""


def _fault(action: str, arguments: Mapping[str, Any]) -> str:
    """Why a task cannot be done; empty when it can."""
    if action == DRILL.name:
        return _number(arguments, "after_s", AFTER_S, 0.0, 1e6) or _number(arguments, "window_s", WINDOW_S, 0.0, 1e6)
    if action == METRICS.name:
        return ""
    if action != TRUTH.name:
        return f"no action {action!r} here: {DRILL.name}, {METRICS.name}, {TRUTH.name}"
    fault = _number(arguments, "step_m", STEP_M, 0.1, 1000.0) or _number(arguments, "height_m", HEIGHT_M, 0.0, 1000.0)
    area = arguments.get("area", AREA_M)
    if fault or refers(area):
        return fault
    if not isinstance(area, Mapping) or not set(AREA_M) <= set(area):
        return f"area is {area!r}: give {{{', '.join(AREA_M)}}}"
    fault = next((wrong for side in AREA_M if (wrong := _number(area, side, 0.0, -5000.0, 5000.0))), "")
    if fault:
        return fault
    if not (area["west_m"] < area["east_m"] and area["south_m"] < area["north_m"]):
        return "area: west must be west of east, south must be south of north"
    try:
        _grid(arguments)
    except Invalid as error:
        return str(error)
    return ""


def _grid(arguments: Mapping[str, Any]) -> wire.Grid:
    area, step_m = arguments.get("area", AREA_M), arguments.get("step_m", STEP_M)
    columns = int((area["east_m"] - area["west_m"]) / step_m + 1e-9) + 1
    rows = int((area["north_m"] - area["south_m"]) / step_m + 1e-9) + 1
    if columns * rows > POINTS_MAX:
        raise Invalid(f"{columns} x {rows} points are more than {POINTS_MAX}: take a larger step_m")
    west, south = float(area["west_m"]), float(area["south_m"])
    east, north = west + (columns - 1) * step_m, south + (rows - 1) * step_m
    return wire.Grid(west, south, east, north, columns, rows, float(arguments.get("height_m", HEIGHT_M)))


def _axis(start_m: float, end_m: float, count: int) -> list[float]:
    return [start_m + (end_m - start_m) * i / max(1, count - 1) for i in range(count)]


def _estimate(shape: Shape) -> Estimate:
    if fault := _fault(shape.action, shape.form):
        return Estimate(duration_s=0.0, refusal=fault)
    if shape.action != DRILL.name:
        return Estimate(duration_s=0.1)
    given = [shape.form.get(name, default) for name, default in (("after_s", AFTER_S), ("window_s", WINDOW_S))]
    after_s, window_s = (AFTER_S if isinstance(value, str) else float(value) for value in given)
    return Estimate(duration_s=after_s + window_s / 2.0)


def _plain(metrics: wire.Metrics) -> dict[str, Any]:
    """The metrics as plain data; a separation that never was is None."""
    separation = metrics.min_separation_m
    return {
        "t_s": metrics.t_s,
        "wall_s": metrics.wall_s,
        "min_separation_m": separation if math.isfinite(separation) else None,
        "min_battery_fraction": metrics.min_battery_fraction,
        "contacts": sum(vehicle.contacts for vehicle in metrics.vehicles),
        "digest": metrics.digest,
        "vehicles": [
            {name: getattr(vehicle, name) for name in vehicle.__struct_fields__ if name != "position_m"}
            | {"position_m": list(vehicle.position_m)}
            for vehicle in metrics.vehicles
        ],
    }


def devices(config: WorldConfig, site: Site) -> Sequence[Device]:
    """One world, where the site has one."""
    return [World(config, site)] if site.world else []


DRIVER: Driver[WorldConfig] = Driver(
    name="world",
    summary="The simulated world: drills, ground truth, metrics of a flight.",
    config=WorldConfig,
    devices=devices,
    isolation=Isolation.INLINE,
)
