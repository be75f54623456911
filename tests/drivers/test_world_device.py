"""The simulated world as a device keeps every promise of a device, and its drills happen once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from qaios.contracts import Device, Site
from qaios.core.errors import Refused
from qaios.core.values import Done, Never, Running, Shape, Task, Unknown
from qaios.drivers.ledger import Ledger
from qaios.drivers.world import DRIVER, World, WorldConfig, devices
from qaios.testing.device_kit import DeviceKit
from qaios.testing.memory import FakeAttempt, MemoryArtifacts
from qaios.worlds import launch as world_launch
from qaios.worlds.clock import WorldClock
from qaios.worlds.observer import Observer


@asynccontextmanager
async def world(home: Path) -> AsyncIterator[world_launch.WorldAddress]:
    address = await asyncio.to_thread(world_launch.launch, home, seed=3, vehicles=1)
    try:
        yield address
    finally:
        await asyncio.to_thread(world_launch.stop, home)


_shared: Path  # the home of the world that all tests of the kit look at


@pytest.fixture(scope="module", autouse=True)
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    global _shared
    _shared = tmp_path_factory.mktemp("world")
    world_launch.launch(_shared, seed=3, vehicles=1)
    yield
    world_launch.stop(_shared)


class TestWorldDevice(DeviceKit):
    lacks = {
        "faulty_task": "its questions have no way to fail but the world's own end",
        "effects": "a drill needs a vehicle in flight; that it happens once is tested below",
        "slow_observe": "an answer of the world is one frame",
        "unknown_key": "it needs a second world; tested below",
        "batch": "it takes one task at a time",
    }

    def make(self, site: Site) -> Device:
        return World(WorldConfig(), site)

    @asynccontextmanager
    async def surroundings(self, site: Site) -> AsyncIterator[None]:
        run = Path(site.home) / "run"
        await asyncio.to_thread(shutil.copytree, _shared / "run", run)
        yield

    def unopenable(self, site: Site) -> Device:
        nowhere = Path(site.home) / "nowhere"
        return World(WorldConfig(), Site(clock=site.clock, artifacts=site.artifacts, home=str(nowhere)))

    def task(self) -> Task:
        return Task(1, "m", "truth", "world.truth", {"step_m": 20.0})

    def slow_task(self) -> Task:
        return Task(2, "m", "drill", "world.drill", {"after_s": 1e5})

    def bad_tasks(self) -> Sequence[Task]:
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("world.drill", {"after_s": -1.0}),
            ("world.drill", {"window_s": "long"}),
            ("world.truth", {"step_m": 0.0}),
            ("world.truth", {"step_m": 0.1, "area": {"west_m": -500, "east_m": 500, "south_m": -500, "north_m": 500}}),
            ("world.truth", {"area": {"west_m": 0.0}}),
            ("world.truth", {"area": {"west_m": 9.0, "east_m": 1.0, "south_m": 0.0, "north_m": 1.0}}),
        ]
        return [Task(9, "m", "bad", action, arguments) for action, arguments in wrong]


def device_of(home: Path, clock: WorldClock) -> World:
    return World(WorldConfig(), Site(clock=clock, artifacts=MemoryArtifacts(), home=str(home)))


async def test_a_drill_is_armed_once_whatever_becomes_of_the_kernel_and_recalled_from_the_world(tmp_path: Path) -> None:
    async with (
        asyncio.timeout(60.0),
        world(tmp_path) as address,
        WorldClock.connect(address.host, address.port, address.token) as clock,
        Observer.connect(address.host, address.port, address.token) as observer,
    ):
        attempt = FakeAttempt(key="k", clock=clock)
        async with device_of(tmp_path, clock) as device:
            assert await device.recall("k") == Never()
            run = asyncio.create_task(device.execute(Task(1, "m", "d", "world.drill", {"after_s": 0.0}), attempt))
            while (await observer.drill("k")).state != "waiting":
                await clock.sleep(0.1)
            assert isinstance(await device.recall("k"), Running)
            # A kernel that forgot everything asks the world.
            async with device_of(tmp_path, clock) as heir:
                assert await heir.recall("k") == Running("k")
                assert await heir.recall("other") == Never()
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert (await observer.drill("k")).state == "disarmed"
        async with device_of(tmp_path, clock) as heir:
            assert await heir.recall("k") == Never()


async def test_a_drill_that_a_lost_world_had_is_unknown(tmp_path: Path) -> None:
    async with world(tmp_path) as address, WorldClock.connect(address.host, address.port, address.token) as clock:
        Ledger(tmp_path / "devices" / "world" / "ledger").began("k", epoch=1, where="1/0.0 3.0")
        async with device_of(tmp_path, clock) as device:
            assert isinstance(await device.recall("k"), Unknown)


async def test_a_done_drill_names_its_victim_and_moment(tmp_path: Path) -> None:
    from tests.worlds.test_world import flying, radio

    async with (
        asyncio.timeout(90.0),
        world(tmp_path) as address,
        WorldClock.connect(address.host, address.port, address.token) as clock,
        Observer.connect(address.host, address.port, address.token) as observer,
        device_of(tmp_path, clock) as device,
    ):
        await flying(clock, observer, await radio(address))
        attempt = FakeAttempt(key="k", clock=clock)
        task = Task(1, "m", "d", "world.drill", {"after_s": 0.5, "window_s": 1.0})
        before = clock.now_s()
        result = await device.execute(task, attempt)
        # Drawn from the seed and not from when it was armed: the next run of this seed has the same moment.
        assert result.value["after_s"] == round(0.5 + Random(f"drill {address.seed}").random(), 2)
        assert result.value["vehicle"] == "drone-1"
        assert before + 0.4 <= result.value["killed_s"] <= before + 2.0
        assert await device.execute(task, attempt) == result
        async with device_of(tmp_path, clock) as heir:
            recalled = await heir.recall("k")
            assert isinstance(recalled, Done)
            assert recalled.result.value == result.value
        metrics = (
            await device.execute(Task(2, "m", "n", "world.metrics", {}), FakeAttempt(key="n", clock=clock))
        ).value
        assert metrics["vehicles"][0]["state"] == "dead"
        assert metrics["min_separation_m"] is None
        with pytest.raises(Refused):
            await device.execute(Task(3, "m", "x", "world.end", {}), attempt)


def test_there_is_a_world_device_only_where_there_is_a_world() -> None:
    site = Site(clock=None, artifacts=MemoryArtifacts(), home="/nowhere")  # type: ignore[arg-type]
    assert devices(WorldConfig(), site) == []
    assert DRIVER.devices is devices


def test_truth_comes_in_the_shape_the_map_is_compared_in() -> None:
    site = Site(clock=None, artifacts=MemoryArtifacts(), home="/nowhere")  # type: ignore[arg-type]
    device = World(WorldConfig(), site)
    (estimate,) = device.estimate([Shape("world.truth", {"area": "${area.bounds}"})], device.status())
    assert not estimate.refusal
