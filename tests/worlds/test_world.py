"""The world process and its vehicles: who leads time, who dies with whom, what is true."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from qaios.core.errors import Conflict, Denied, DeviceFault, Invalid, NotFound, Unreachable
from qaios.worlds import wire
from qaios.worlds.clock import WorldClock
from qaios.worlds.launch import WorldAddress, attach, launch
from qaios.worlds.observer import Observer

PATIENCE_S = 60.0


@asynccontextmanager
async def running(home: Path, **options: Any) -> AsyncIterator[tuple[WorldAddress, Observer]]:
    """A world and an observer of it; the world is gone afterwards, whatever happened."""
    world = await asyncio.to_thread(launch, home, **{"seed": 7, "vehicles": 1, **options})
    try:
        async with (
            asyncio.timeout(PATIENCE_S),
            Observer.connect(world.host, world.port, world.token) as observer,
        ):
            yield world, observer
    finally:
        with suppress(ProcessLookupError):
            os.kill(world.pid, signal.SIGTERM)
        await until(lambda: not alive(world.pid))


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition outside this process."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what it waits for is in other processes
            await asyncio.sleep(0.02)


class Radio(asyncio.DatagramProtocol):
    """The smallest ground station: sends packets, keeps what comes."""

    def __init__(self) -> None:
        from pymavlink.dialects.v20 import common

        self.dialect = common
        self.mav = common.MAVLink(None, srcSystem=255, srcComponent=190)
        self.heard: list[Any] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.heard.append(self.mav.decode(bytearray(data)))

    def command(self, number: int, *params: float) -> None:
        given = (*params, *([0.0] * (7 - len(params))))
        message = self.dialect.MAVLink_command_long_message(0, 1, number, 0, *given)
        self.transport.sendto(message.pack(self.mav))  # type: ignore[attr-defined]

    def beat(self) -> None:
        message = self.dialect.MAVLink_heartbeat_message(6, 8, 0, 0, 4, 3)
        self.transport.sendto(message.pack(self.mav))  # type: ignore[attr-defined]


async def radio(world: WorldAddress, vehicle: int = 0) -> Radio:
    to = world.vehicles[vehicle]
    _, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Radio, remote_addr=(to.host, to.port))
    test = asyncio.current_task()
    assert test is not None
    test.add_done_callback(lambda _: protocol.transport.close())
    return protocol


async def flying(clock: WorldClock, observer: Observer, station: Radio, vehicle: int = 0) -> None:
    """Arm, take off to 10 m, return when it is up."""
    station.beat()
    await clock.sleep(0.2)
    station.command(400, 1.0)
    station.command(22, 0, 0, 0, 0, 0, 0, 10.0)
    while (await observer.metrics()).vehicles[vehicle].position_m[2] < 9.0:
        station.beat()
        await clock.sleep(0.5)


async def test_a_world_says_where_it_is_and_only_to_its_owner(tmp_path: Path) -> None:
    async with running(tmp_path, vehicles=2) as (world, observer):
        path = tmp_path / "run" / "world.json"
        assert path.stat().st_mode & 0o777 == 0o600
        assert attach(tmp_path) == world
        assert [vehicle.name for vehicle in world.vehicles] == ["drone-1", "drone-2"]
        with pytest.raises(Conflict):
            launch(tmp_path)
        with pytest.raises(Denied, match="token"):
            async with WorldClock.connect(world.host, world.port, "guess"):
                pass
        assert world.token not in " ".join(psutil.Process(world.vehicles[0].pid).cmdline())
        await observer.shutdown()
        await until(lambda: not alive(world.pid))
        assert not path.exists()
        assert not any(alive(vehicle.pid) for vehicle in world.vehicles)


async def test_truth_and_stations_are_those_of_the_scene(tmp_path: Path) -> None:
    from qaios.worlds.air import PlumeField
    from qaios.worlds.scene import default_scene

    async with running(tmp_path) as (_, observer):
        grid = wire.Grid(-60.0, -60.0, 60.0, 60.0, 5, 4, 12.0)
        truth = await observer.truth(grid)
        assert truth.shape == (4, 5)
        assert abs(truth - PlumeField(default_scene()).on_grid(grid)).max() < 1e-5
        readings = await observer.stations()
        assert [reading.name for reading in readings] == [station.name for station in default_scene().stations]
        assert all(reading.sigma_ugm3 >= 1.0 for reading in readings)
        with pytest.raises(Invalid, match="grid"):
            await observer.truth(wire.Grid(0.0, 0.0, 1.0, 1.0, 10_000, 10_000, 12.0))


async def test_time_waits_for_a_clock_that_holds_and_runs_when_it_does_not(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as (world, observer),
        WorldClock.connect(world.host, world.port, world.token) as clock,
    ):
        before = clock.now_s()
        await clock.sleep(2.0)
        assert 2.0 <= clock.now_s() - before < 2.1
        with clock.hold():
            held = clock.now_s()
            for _ in range(20):  # questions are answered while time stands still
                metrics = await observer.metrics()
            assert metrics.t_s + world.epoch_s - held <= 0.24 + 0.041
        await clock.sleep(1.0)
        assert clock.now_s() > held + 1.0


async def test_who_is_woken_has_its_turn_before_time_goes_on(tmp_path: Path) -> None:
    async with (
        running(tmp_path, window_s=0.04) as (world, _),
        WorldClock.connect(world.host, world.port, world.token) as clock,
    ):
        woken: list[float] = []

        async def waiter() -> None:
            for _ in range(25):
                before = clock.now_s()
                await clock.sleep(0.04)
                woken.append(clock.now_s() - before)

        await asyncio.gather(*(waiter() for _ in range(20)))
        assert max(woken) == pytest.approx(0.04, abs=1e-3)  # nobody ever slept through a second tick


async def test_the_slowest_clock_leads(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as (world, observer),
        WorldClock.connect(world.host, world.port, world.token) as quick,
        WorldClock.connect(world.host, world.port, world.token) as slow,
    ):
        await quick.sleep(0.5)
        with slow.hold():
            held = slow.now_s()
            sleeper = asyncio.create_task(quick.sleep(5.0))
            for _ in range(20):
                assert (await observer.metrics()).t_s + world.epoch_s - held <= 0.24 + 0.041
            assert not sleeper.done()
        await sleeper


async def test_when_the_world_dies_every_sleeper_is_told_and_the_vehicles_die_with_it(tmp_path: Path) -> None:
    async with running(tmp_path, vehicles=2) as (world, observer):
        async with WorldClock.connect(world.host, world.port, world.token) as clock:
            sleepers = [asyncio.create_task(clock.sleep(1e6)) for _ in range(3)]
            await clock.sleep(0.2)
            os.kill(world.pid, signal.SIGKILL)
            for sleeper in sleepers:
                with pytest.raises(Unreachable):
                    await sleeper
            with pytest.raises(Unreachable):
                await clock.sleep(1.0)
            assert not clock.alive
        with pytest.raises(Unreachable):
            await observer.metrics()
        await until(lambda: not any(alive(vehicle.pid) for vehicle in world.vehicles))
        with pytest.raises(Unreachable):
            attach(tmp_path)


async def test_a_world_and_its_vehicles_outlive_who_started_them(tmp_path: Path) -> None:
    script = f"from qaios.worlds.launch import launch; import os; launch({str(tmp_path)!r}, vehicles=1); os.abort()"
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == -signal.SIGABRT
    world = attach(tmp_path)
    assert alive(world.vehicles[0].pid)
    async with Observer.connect(world.host, world.port, world.token) as observer:
        await observer.shutdown()
    await until(lambda: not alive(world.pid))


async def test_a_killed_vehicle_falls_the_others_fly_on_and_a_drill_does_it_by_the_seed(tmp_path: Path) -> None:
    async with (
        running(tmp_path, vehicles=2) as (world, observer),
        WorldClock.connect(world.host, world.port, world.token) as clock,
    ):
        stations = [await radio(world, i) for i in range(2)]
        await asyncio.gather(*(flying(clock, observer, station, i) for i, station in enumerate(stations)))
        armed = await observer.arm_drill("k", 1.0, 3.0)
        assert armed.state == "armed"
        start = (await observer.metrics()).t_s
        while (drill := await observer.drill("k")).state != "done":
            for station in stations:
                station.beat()
            await clock.sleep(0.2)
        assert drill.killed_s is not None
        assert 0.9 <= drill.killed_s - start <= 3.1
        await clock.sleep(4.0)
        metrics = await observer.metrics()
        victim = next(vehicle for vehicle in metrics.vehicles if vehicle.name == drill.vehicle)
        other = next(vehicle for vehicle in metrics.vehicles if vehicle.name != drill.vehicle)
        assert victim.state == "dead"
        assert victim.ended_s == drill.killed_s
        assert victim.position_m[2] < 0.5
        assert other.state == "flying"
        assert other.position_m[2] > 5.0
        assert not alive(next(vehicle.pid for vehicle in world.vehicles if vehicle.name == drill.vehicle))
        assert 2.0 < metrics.min_separation_m < 10.0


async def test_a_hung_vehicle_is_treated_as_dead_and_the_world_says_so(tmp_path: Path) -> None:
    async with (
        running(tmp_path, vehicles=2, hang_wall_s=0.5) as (world, observer),
        WorldClock.connect(world.host, world.port, world.token) as clock,
    ):
        await clock.sleep(0.5)
        os.kill(world.vehicles[1].pid, signal.SIGSTOP)
        await clock.sleep(1.0)
        states = [vehicle.state for vehicle in (await observer.metrics()).vehicles]
        assert states == ["ready", "dead"]
        assert "drone-2 lost: hung" in (tmp_path / "log" / "world.log").read_text()


async def test_when_its_ground_station_falls_silent_a_vehicle_process_comes_home_by_itself(tmp_path: Path) -> None:
    async with (
        running(tmp_path) as (world, observer),
        WorldClock.connect(world.host, world.port, world.token) as clock,
    ):
        station = await radio(world)
        await flying(clock, observer, station)
        while (await observer.metrics()).vehicles[0].state == "flying":
            await clock.sleep(1.0)
        assert any("link lost" in message.text for message in station.heard if message.get_type() == "STATUSTEXT")
        vehicle = (await observer.metrics()).vehicles[0]
        assert vehicle.position_m[2] < 0.2
        assert vehicle.contacts == 0


async def test_with_the_kernel_gone_the_world_runs_on_at_real_time_and_the_vehicle_lands(tmp_path: Path) -> None:
    async with running(tmp_path) as (world, observer):
        station = await radio(world)
        async with WorldClock.connect(world.host, world.port, world.token) as clock:
            await clock.sleep(0.2)
            station.beat()
            station.transport.sendto(  # type: ignore[attr-defined]
                station.dialect.MAVLink_param_set_message(1, 1, b"COM_DL_LOSS_T", 1.0, 9).pack(station.mav)
            )
            station.command(400, 1.0)
            station.command(22, 0, 0, 0, 0, 0, 0, 2.0)
            while (await observer.metrics()).vehicles[0].position_m[2] < 1.0:
                station.beat()
                await clock.sleep(0.1)
            before = (await observer.metrics()).t_s
        loop = asyncio.get_running_loop()
        began = loop.time()
        while (await observer.metrics()).vehicles[0].state == "flying":  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.1)
        world_s, wall_s = (await observer.metrics()).t_s - before, loop.time() - began
        assert world_s < wall_s + 1.0  # never faster than the wall


async def test_a_clock_that_neither_acks_nor_holds_is_not_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path, patience_wall_s=0.5) as (world, observer):
        _, writer = await asyncio.open_connection(world.host, world.port)
        writer.write(wire.frame(wire.Join("clock", world.token)))
        start = (await observer.metrics()).t_s
        while (await observer.metrics()).t_s < start + 1.0:  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.05)
        writer.close()


async def test_a_world_that_nobody_needs_ends(tmp_path: Path) -> None:
    world = await asyncio.to_thread(launch, tmp_path, vehicles=1, idle_wall_s=0.3)
    await until(lambda: not alive(world.pid))
    assert not alive(world.vehicles[0].pid)
    with pytest.raises(NotFound):
        attach(tmp_path)


async def test_strangers_and_nonsense_are_turned_away_and_the_world_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path) as (world, observer):
        for packet in (b"GET / HTTP/1.1\r\n\r\n", wire.frame(wire.Tick(1.0)), b"\x00\x00\x00\x02\xc1\xc1"):
            with socket.create_connection((world.host, world.port)) as stranger:
                stranger.settimeout(20.0)
                stranger.sendall(packet)
                while stranger.recv(4096):
                    pass
        reader, writer = await asyncio.open_connection(world.host, world.port)
        writer.write(wire.frame(wire.Join("observer", world.token)) + wire.frame(wire.Ready(1, 1)))
        await reader.read()  # an observer may not speak as a vehicle: it is cut off
        writer.close()
        assert (await observer.metrics()).vehicles[0].state == "ready"


def test_a_world_that_cannot_start_says_why(tmp_path: Path) -> None:
    scene = tmp_path / "scene.json"
    scene.write_text('{"name": 1}')
    with pytest.raises(DeviceFault, match="scene"):
        launch(tmp_path, scene=scene)


def test_no_world_is_not_found_and_a_stale_file_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        attach(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "world.json").write_text("{}")
    with pytest.raises(Invalid):
        attach(tmp_path)
