"""The driver `air`: fixed air monitors on their masts, one device each.

They give the drones' samples something to be compared with: a place that does not move, read as often as asked.
In the simulated world a station is read through the world's observer connection; the reading is the plume's
concentration at the mast plus noise of one sigma = 1 ug/m3 + 5 % (`worlds.air`), and says so. There is no driver
for a real monitor yet; one would be another module with the same action.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qaios.bridge.references import refers
from qaios.contracts import Attempt, Driver, Isolation, Site
from qaios.core.errors import Denied, DeviceFault, Invalid, NotFound, Refused, Unreachable
from qaios.core.values import (
    ActionSpec,
    DeviceSpec,
    DeviceStatus,
    Estimate,
    HaltRecipe,
    Never,
    Reading,
    Recall,
    Result,
    Shape,
    Task,
    Unit,
)
from qaios.drivers.once import Once
from qaios.worlds import launch
from qaios.worlds.observer import Observer
from qaios.worlds.wire import StationReading

READ = ActionSpec(
    "air.read",
    "Read PM2.5 and wind at a fixed station.",
    parameters={"samples": "how many readings (1..1000), default 1", "every_s": "seconds between them (0..3600)"},
)


@dataclass(frozen=True, slots=True)
class AirConfig:
    """The monitors of the simulated world, by name."""

    stations: tuple[str, ...] = ("gate", "square", "east")


class AirStation:
    """One monitor as a `contracts.Device`."""

    def __init__(self, station: str, site: Site) -> None:
        self._station, self._site = station, site
        self.spec = DeviceSpec(
            name=f"air-{station}",
            driver="air",
            kind="sensor",
            actions=(READ,),
            simulated=True,
            summary="fixed PM2.5 and wind monitor of the simulated world: Gaussian plume, sigma = 1 ug/m3 + 5 %",
        )
        self._stack = AsyncExitStack()
        self._observer: Observer | None = None
        self._once = Once()
        self._halts = 0
        self._last: tuple[Reading, ...] = ()
        self._alive = True

    async def __aenter__(self) -> Self:
        try:
            world = launch.read(Path(self._site.home))
            self._observer = await self._stack.enter_async_context(
                Observer.connect(world.host, world.port, world.token)
            )
            self._alive = True
            await self._read()
        except (NotFound, Unreachable, Denied, Invalid) as error:
            await self._stack.aclose()
            self._observer = None
            raise DeviceFault(f"{self.spec.name}: {error}", hint=error.hint) from error
        except BaseException:
            await self._stack.aclose()
            self._observer = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self._once.close()
        await self._stack.aclose()
        self._observer = None

    def status(self) -> DeviceStatus:
        return DeviceStatus(1, alive=self._alive, readings=self._last)

    def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
        return [self._estimate(shape) for shape in shapes]

    def _estimate(self, shape: Shape) -> Estimate:
        if shape.action != READ.name:
            return Estimate(0.0, refusal=f"{self.spec.name} has no action {shape.action}")
        try:
            count, every_s = _arguments(shape.form)
        except Refused as error:
            return Estimate(0.0, refusal=str(error))
        return Estimate((count - 1) * every_s, terms={"samples": float(count)})

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        if task.action != READ.name:
            raise Refused(f"{self.spec.name} has no action {task.action}")
        count, every_s = _arguments(task.arguments)
        if self._observer is None:
            raise DeviceFault(f"{self.spec.name} is not open")
        return await self._once.run(attempt.key, lambda: self._sample(count, every_s, attempt))

    async def _sample(self, count: int, every_s: float, attempt: Attempt) -> Result:
        halts, rows, last = self._halts, [], None
        for number in range(count):
            if number:
                await attempt.clock.sleep(every_s)
            if self._halts != halts:
                raise DeviceFault(f"{self.spec.name} was halted", retryable=False)
            last = await self._read()
            row = [round(self._time_s(last), 3), *last.position_m, round(last.pm25_ugm3, 3), round(last.sigma_ugm3, 3)]
            rows.append(row)
            attempt.emit({"samples": [row]})
            attempt.progress((number + 1) / count)
        if last is None:
            raise DeviceFault(f"{self.spec.name} gave no reading")
        mean = sum(row[4] for row in rows) / count
        value = {
            "device": self.spec.name,
            "position": list(last.position_m),
            "samples": rows,
            "sample_columns": ["t_s", "east_m", "north_m", "up_m", "pm25_ug_m3", "sigma_ug_m3"],
            "pm25": {
                "mean": round(mean, 3),
                "sigma": round(math.sqrt(sum(row[5] ** 2 for row in rows)) / count, 3),
                "unit": "ug/m3",
            },
            "wind_mps": list(last.wind_mps),
        }
        return Result(value, provenance={"driver": "air", "simulated": True, "physics": self.spec.summary})

    async def _read(self) -> StationReading:
        if self._observer is None:
            raise DeviceFault(f"{self.spec.name} is not open")
        try:
            stations = await self._observer.stations()
        except (Unreachable, Invalid) as error:
            self._alive = False
            raise DeviceFault(f"{self.spec.name}: {error}") from error
        found = next((reading for reading in stations if reading.name == self._station), None)
        if found is None:
            names = ", ".join(reading.name for reading in stations) or "none"
            raise DeviceFault(f"the world has no station {self._station}, it has {names}", retryable=False)
        at_s = self._time_s(found)
        east, north = found.wind_mps
        self._last = (
            Reading("pm25", found.pm25_ugm3, Unit.MICROGRAM_PER_CUBIC_METRE, at_s, found.sigma_ugm3),
            Reading("wind_east", east, Unit.METRE_PER_SECOND, at_s),
            Reading("wind_north", north, Unit.METRE_PER_SECOND, at_s),
        )
        return found

    def _time_s(self, reading: StationReading) -> float:
        return self._observer.welcome.epoch_s + reading.t_s if self._observer else reading.t_s

    async def halt(self) -> None:
        """Nothing moves; a reading in progress ends."""
        self._halts += 1

    def halt_recipes(self) -> Sequence[HaltRecipe]:
        return ()

    async def observe(self) -> Sequence[Reading]:
        await self._read()
        return self._last

    async def recall(self, key: str) -> Recall:
        """Reading again does no harm, so what this process does not know counts as never begun."""
        known = self._once.recall(key)
        return known if self._observer is not None else Never()


def _arguments(form: Any) -> tuple[int, float]:
    """(samples, every_s) of a form. Raises `Refused`; a reference that is not resolved yet counts as the default."""
    strange = set(form) - set(READ.parameters)
    if strange:
        raise Refused(f"air.read: unknown {', '.join(sorted(strange))}", hint="It takes samples and every_s.")
    rows = {"samples": (1, 1, 1000), "every_s": (1.0, 0.0, 3600.0)}
    values = []
    for name, (default, low, high) in rows.items():
        value = form.get(name, default)
        if refers(value):
            value = default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise Refused(f"air.read: {name} is {value!r}", hint=f"Give a number from {low} to {high}.")
        values.append(value)
    return int(values[0]), float(values[1])


def devices(config: AirConfig, site: Site) -> Sequence[AirStation]:
    """The monitors of the site's simulated world; none where there is no such world."""
    return [AirStation(station, site) for station in config.stations] if site.world else []


DRIVER: Driver[AirConfig] = Driver(
    name="air",
    summary="Fixed air-quality monitors of the simulated world: air.read.",
    config=AirConfig,
    devices=devices,
    isolation=Isolation.INLINE,
)
