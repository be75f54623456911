"""The driver in the simulated world: physics, four vehicle processes, a lossy link, and one process killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from qaios.contracts import Berth, Site
from qaios.core.errors import DeviceLost
from qaios.core.values import Result, Task, TaskSpec
from qaios.drivers import air, mavlink
from qaios.drivers.mavlink import Drone
from qaios.drivers.mavlink_plans import MavlinkConfig
from qaios.robotics import survey
from qaios.robotics.geo import Origin
from qaios.robotics.repair import SurveyRepair
from qaios.testing.memory import FakeAttempt, MemoryArtifacts
from qaios.worlds import launch
from qaios.worlds.clock import WorldClock
from qaios.worlds.observer import Observer


class Fleet:
    """The drones of one world, opened, with the clock that drives them."""

    def __init__(self, clock: WorldClock, observer: Observer, site: Site, drones: dict[str, Drone]) -> None:
        self.clock, self.observer, self.site, self.drones = clock, observer, site, drones
        self.attempts: dict[str, FakeAttempt] = {}

    def fly(self, task: TaskSpec) -> asyncio.Task[Result]:
        attempt = self.attempts.setdefault(task.name, FakeAttempt(task.name, clock=self.clock))
        drone = self.drones[task.device]
        return asyncio.ensure_future(drone.execute(Task(1, "m", task.name, task.action, task.arguments), attempt))

    async def do(self, device: str, action: str, **arguments: Any) -> Any:
        return (await self.fly(TaskSpec(f"{device} {action}", action, arguments, device=device))).value

    def flown(self, name: str) -> list[str]:
        return [chunk["swath"] for chunk in self.attempts[name].chunks if "swath" in chunk]


@asynccontextmanager
async def fleet(home: Path, *, vehicles: int, loss: float = 0.0) -> AsyncIterator[Fleet]:
    world = await asyncio.to_thread(launch.launch, home, seed=3, vehicles=vehicles, loss=loss, epoch_s=1.8e9)
    async with AsyncExitStack() as stack, asyncio.timeout(240.0):
        observer = await stack.enter_async_context(Observer.connect(world.host, world.port, world.token))
        stack.push_async_callback(observer.shutdown)
        clock = await stack.enter_async_context(WorldClock.connect(world.host, world.port, world.token))
        site = Site(clock=clock, artifacts=MemoryArtifacts(), home=str(home), profile="sim", world="run/world.json")
        drones = {}
        for drone in mavlink.devices(MavlinkConfig(), site):
            drones[drone.spec.name] = await stack.enter_async_context(drone)
        yield Fleet(clock, observer, site, drones)


def square(west: float, south: float, east: float, north: float) -> dict[str, Any]:
    corners = [(west, south), (east, south), (east, north), (west, north), (west, south)]
    return {"type": "Polygon", "coordinates": [[list(Origin().place(*corner)) for corner in corners]]}


@pytest.mark.slow
async def test_one_drone_scans_goes_samples_and_comes_home_in_wind(tmp_path: Path) -> None:
    async with fleet(tmp_path, vehicles=1) as sky:
        assert sky.drones["drone-1"].status().pid not in (None, os.getpid())
        scan = await sky.do("drone-1", "drone.scan", at=[4, -18], altitude_m=10, radius_m=8)
        # The bakery, 10 by 8 m around (2, 2), is in the lidar's reach from here; its south wall is at north -2.
        near = [x for found in scan["obstacles"] for x in found["corners"] if -8 < x[0] < 12 and -5 < x[1] < 1]
        assert near
        there = await sky.do("drone-1", "drone.goto", to="Grid-A1", altitude_m=12)
        assert there["position"][:2] == pytest.approx([-50.0, -50.0], abs=3.0)
        air_there = await sky.do("drone-1", "drone.sample", samples=8)
        assert 2.0 < air_there["pm25"]["mean"] < 20.0
        home = await sky.do("drone-1", "drone.home")
        assert home["position"] == pytest.approx([*home["home"], 0.0], abs=1.5)
        (station, *_) = air.devices(air.AirConfig(), sky.site)
        async with station:
            read = await station.execute(
                Task(1, "m", "air", "air.read", {"samples": 3}), FakeAttempt("air", clock=sky.clock)
            )
        assert len(read.value["samples"]) == 3


@pytest.mark.slow
async def test_four_drones_share_an_area_and_three_finish_when_one_process_is_killed(tmp_path: Path) -> None:
    async with fleet(tmp_path, vehicles=4, loss=0.05) as sky:
        area = survey.area(square(-60, -60, 60, 0))
        crews = [{"device": f"drone-{i + 1}", "home": [-9.0 + 6.0 * i, -66.0]} for i in range(4)]
        plan = await asyncio.to_thread(
            survey.swaths, area, (), None, crews, altitude_m=16, speed_mps=5, width_m=15, work=80
        )
        tasks = {task.device: task for task in survey.fly(plan).spawn}
        assert len(tasks) == 4
        runs = {device: sky.fly(task) for device, task in tasks.items()}
        lost = next(device for device, task in tasks.items() if len(task.arguments["swaths"]) > 1)
        name = tasks[lost].name
        while not sky.flown(name):
            await sky.clock.sleep(0.5)
        pid = sky.drones[lost].status().pid
        assert pid
        os.kill(pid, signal.SIGKILL)

        with pytest.raises(DeviceLost):
            await runs.pop(lost)
        silent = next(chunk["lost"] for chunk in sky.attempts[name].chunks if "lost" in chunk)
        assert 3.0 < silent["lost_s"] - silent["last_heartbeat_s"] < 4.5
        berths = [Berth(drone.spec, 1, 1) for drone in sky.drones.values() if drone.status().alive]
        repairs = await SurveyRepair().repair(tasks[lost], sky.attempts[name].chunks, berths, Random(1))
        flights = [task for task in repairs if task.action == "drone.survey"]
        unflown = {swath["id"] for swath in tasks[lost].arguments["swaths"]} - set(sky.flown(name))
        assert sorted(swath["id"] for task in flights for swath in task.arguments["swaths"]) == sorted(unflown)

        results = [(await run).value for run in runs.values()]
        results += [(await run).value for run in [sky.fly(task) for task in flights]]
        results += [survey.salvage(task.arguments["args"][0]) for task in repairs if task.action == "compute.call"]
        whole = survey.collect(results, plan)
        assert whole["missing"] == []
        assert [one["vehicle"] for one in whole["lost"]] == [lost]
        assert len(whole["samples"]) > 200
        truth = await sky.observer.metrics()
        assert truth.min_separation_m > 2.0
        live = [vehicle for vehicle in truth.vehicles if vehicle.name != lost]
        assert all(vehicle.contacts == 0 and vehicle.state == "ready" for vehicle in live)
        assert min(vehicle.battery_min_fraction for vehicle in live) > 0.25
