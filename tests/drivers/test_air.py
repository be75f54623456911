"""Fixed monitors of the simulated world: readings with unit, noise and place; the promises of a device."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from qaios.contracts import Device, Site
from qaios.core.errors import DeviceFault, Refused
from qaios.core.values import Shape, Task, Unit
from qaios.drivers.air import DRIVER, AirConfig
from qaios.testing.clock import FakeClock
from qaios.testing.device_kit import DeviceKit
from qaios.testing.memory import FakeAttempt, MemoryArtifacts
from qaios.worlds import wire
from qaios.worlds.clock import read_body

EPOCH_S = 1_800_000_000.0


class StationsOnly:
    """The observer side of a world with one station, spoken by the world's own frames."""

    def __init__(self, home: Path) -> None:
        self._home, self._token = home, secrets.token_hex(4)
        self._server: asyncio.Server | None = None
        self.answering = asyncio.Event()
        self.answering.set()
        self.asked = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> StationsOnly:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        run = self._home / "run"
        run.mkdir(parents=True, exist_ok=True)
        document = {
            "pid": 1, "host": "127.0.0.1", "port": port, "token": self._token, "seed": 1, "scene": "test",
            "epoch_s": EPOCH_S, "origin": {"lat": 47.0, "lon": 8.0}, "vehicles": [],
        }  # fmt: skip
        (run / "world.json").write_bytes(msgspec.json.encode(document))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while True:
                question = wire.to_world(await read_body(reader))
                if isinstance(question, wire.Join):
                    writer.write(wire.frame(wire.Welcome(EPOCH_S, 0.0, 1, 47.0, 8.0)))
                    continue
                self.asked += 1
                await self.answering.wait()
                reading = wire.StationReading("gate", (0.0, -58.0, 4.0), 12.0 + self.asked, 1.6, (2.0, 1.0), 5.0)
                writer.write(wire.frame(wire.Stations((reading,))))
        except Exception:  # noqa: BLE001 - the other side has gone, which is how every test ends
            writer.close()


def site_at(home: Path, clock: FakeClock | None = None) -> Site:
    return Site(clock=clock or FakeClock(), artifacts=MemoryArtifacts(), home=str(home), world="run/world.json")


async def test_a_station_is_read_as_often_as_asked_with_unit_noise_and_place(tmp_path: Path) -> None:
    clock = FakeClock()
    async with StationsOnly(tmp_path):
        (station,) = DRIVER.devices(AirConfig(stations=("gate",)), site_at(tmp_path, clock))
        async with station:
            attempt = FakeAttempt("k", clock=clock)
            task = Task(1, "m", "air", "air.read", {"samples": 3, "every_s": 2.0})
            result = await clock.carry(station.execute(task, attempt))
            (pm25, *wind) = await station.observe()
    assert [row[1:4] for row in result.value["samples"]] == [[0.0, -58.0, 4.0]] * 3
    assert len({row[4] for row in result.value["samples"]}) == 3
    assert result.value["pm25"]["unit"] == "ug/m3"
    assert result.provenance["simulated"] is True
    assert len(attempt.chunks) == 3
    assert pm25.unit is Unit.MICROGRAM_PER_CUBIC_METRE
    assert pm25.sigma == 1.6
    assert pm25.time_s == EPOCH_S + 5.0
    assert [reading.unit for reading in wind] == [Unit.METRE_PER_SECOND] * 2


async def test_a_station_the_world_does_not_have_is_a_fault_that_names_those_it_has(tmp_path: Path) -> None:
    async with StationsOnly(tmp_path):
        (station,) = DRIVER.devices(AirConfig(stations=("moon",)), site_at(tmp_path))
        with pytest.raises(DeviceFault, match="it has gate"):
            await station.__aenter__()


async def test_without_a_world_there_are_no_stations_and_opening_one_is_a_fault(tmp_path: Path) -> None:
    nowhere = Site(clock=FakeClock(), artifacts=MemoryArtifacts(), home=str(tmp_path))
    assert not DRIVER.devices(AirConfig(), nowhere)
    station, *_ = DRIVER.devices(AirConfig(), site_at(tmp_path))
    with pytest.raises(DeviceFault, match="no simulated world"):
        await station.__aenter__()


async def test_a_world_that_goes_away_is_a_fault_and_the_station_is_not_alive(tmp_path: Path) -> None:
    async with StationsOnly(tmp_path) as world:
        (station,) = DRIVER.devices(AirConfig(stations=("gate",)), site_at(tmp_path))
        async with station:
            world.cut()
            with pytest.raises(DeviceFault):
                await station.observe()
            assert not station.status().alive


@pytest.mark.parametrize("arguments", [{"samples": 0}, {"samples": "all"}, {"every_s": -1}, {"often": 2}])
async def test_wrong_arguments_are_refused(tmp_path: Path, arguments: dict[str, object]) -> None:
    station, *_ = DRIVER.devices(AirConfig(), site_at(tmp_path))
    assert station.estimate([Shape("air.read", arguments)], station.status())[0].refusal
    with pytest.raises(Refused):
        await station.execute(Task(1, "m", "t", "air.read", arguments), FakeAttempt())


class TestAirStation(DeviceKit):
    lacks = {
        "faulty_task": "reading fails only when the world is gone, which is tested above",
        "effects": "reading has no effect",
        "slow_observe": "observing and executing ask the same world over one connection, in turn",
        "batch": "one reading at a time",
        "unknown_key": "reading again does no harm, so nothing is ever unknown",
    }

    def clock(self) -> FakeClock:
        return FakeClock()

    def site(self) -> Site:
        return site_at(self.home, self.time if isinstance(self.time, FakeClock) else None)

    @asynccontextmanager
    async def surroundings(self, site: Site) -> AsyncIterator[None]:
        async with StationsOnly(self.home) as self.world:
            yield

    def make(self, site: Site) -> Device:
        (station,) = DRIVER.devices(AirConfig(stations=("gate",)), site)
        return station

    def task(self) -> Task:
        return Task(1, "kit", "read", "air.read", {"samples": 2, "every_s": 1.0})

    def slow_task(self) -> Task:
        return Task(2, "kit", "watch", "air.read", {"samples": 1000, "every_s": 3600.0})

    def unopenable(self, site: Site) -> Device:
        (station,) = DRIVER.devices(AirConfig(stations=("moon",)), site)
        return station
