"""The driver against a vehicle that answers as the real one does: actions, refusals, loss, people, crashes."""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qaios.contracts import Site
from qaios.core.errors import DeviceFault, DeviceLost, Invalid, Refused
from qaios.core.values import (
    DatagramHalt,
    DeviceStatus,
    Done,
    Never,
    Reading,
    Result,
    Running,
    Shape,
    Task,
    Unit,
    Unknown,
)
from qaios.drivers.mavlink import DRIVER, Drone
from qaios.drivers.mavlink_plans import Endpoint, MavlinkConfig
from qaios.drivers.mavlink_record import plan_id
from qaios.testing.clock import FakeClock
from qaios.testing.memory import FakeAttempt, MemoryArtifacts
from tests.drivers.mavlink_peer import PeerVehicle

SWATHS = [
    {"id": "S00", "start": [5.0, 20.0], "end": [35.0, 20.0]},
    {"id": "S01", "start": [35.0, 32.0], "end": [5.0, 32.0], "via": []},
    {"id": "S02", "start": [5.0, 44.0], "end": [35.0, 44.0]},
]
ZONE = [[10.0, 5.0], [20.0, 5.0], [20.0, 15.0], [10.0, 15.0]]


class Field:
    """A clock, a vehicle, a driver, and tasks with keys of their own."""

    def __init__(self, clock: FakeClock, peer: PeerVehicle, home: Path, config: Mapping[str, Any]) -> None:
        self.clock, self.peer = clock, peer
        self.site = Site(clock=clock, artifacts=MemoryArtifacts(), home=str(home))
        endpoint = Endpoint("drone-1", "127.0.0.1", peer.port, peer.sysid)
        self.config = MavlinkConfig(vehicles=(endpoint,), **config)
        self.attempts: dict[str, FakeAttempt] = {}
        self.drone = self.fresh()

    def fresh(self) -> Drone:
        """The same vehicle as a kernel sees it that was started anew."""
        (drone,) = DRIVER.devices(self.config, self.site)
        assert isinstance(drone, Drone)
        return drone

    async def open(self, drone: Drone | None = None) -> Drone:
        return await self.clock.carry((drone or self.drone).__aenter__())

    async def close(self, drone: Drone | None = None) -> None:
        await self.clock.carry((drone or self.drone).__aexit__(None, None, None))

    def begin(self, action: str, key: str = "k", drone: Drone | None = None, **arguments: Any) -> asyncio.Task[Result]:
        attempt = self.attempts.setdefault(key, FakeAttempt(key, clock=self.clock))
        task = Task(1, "mission", "task", action, arguments)
        return asyncio.ensure_future((drone or self.drone).execute(task, attempt))

    async def do(self, action: str, key: str = "k", drone: Drone | None = None, **arguments: Any) -> Any:
        return (await self.clock.carry(self.begin(action, key, drone, **arguments))).value

    def flown(self, key: str = "k") -> list[str]:
        return [chunk["swath"] for chunk in self.attempts[key].chunks if "swath" in chunk]

    async def until(self, true: Any) -> None:
        """Move time on until `true()`."""
        for _ in range(20_000):
            if true():
                return
            await self.clock.advance(0.04)
        raise AssertionError("it never came true")


@asynccontextmanager
async def field(home: Path, *, config: Mapping[str, Any] | None = None, **vehicle: Any) -> AsyncIterator[Field]:
    clock = FakeClock()
    peer = await PeerVehicle(clock, **vehicle).start()
    ground = Field(clock, peer, home, config or {})
    await ground.open()
    try:
        yield ground
    finally:
        await ground.close()
        await peer.stop()


# -- flying -----------------------------------------------------------------------------------------------------


async def test_a_drone_scans_goes_to_a_grid_point_samples_and_comes_home(tmp_path: Path) -> None:
    async with field(tmp_path, boxes=[(14.0, -4.0, 20.0, 4.0)]) as ground:
        scan = await ground.do("drone.scan", "scan", altitude_m=10, radius_m=5)
        assert scan["device"] == "drone-1"
        (outline,) = [found["corners"] for found in scan["obstacles"]]
        assert min(x for x, _ in outline) == pytest.approx(13.5, abs=1.0)

        there = await ground.do("drone.goto", "goto", to="Grid-C4", altitude_m=10)
        assert there["position"][:2] == pytest.approx([-10.0, 10.0], abs=1.5)

        air = await ground.do("drone.sample", "sample", samples=6)
        assert len(air["samples"]) == 6
        assert air["pm25"]["unit"] == "ug/m3"
        assert air["pm25"]["mean"] == pytest.approx(9.0, abs=0.5)
        assert all(len(row) == len(air["sample_columns"]) == 6 for row in air["samples"])

        home = await ground.do("drone.home", "home")
        assert home["landed"]
        assert not ground.peer.autopilot.armed
        assert home["position"][2] < 0.5


async def test_a_survey_flies_its_swaths_in_order_around_the_zone_and_brings_back_every_sample(tmp_path: Path) -> None:
    async with field(tmp_path) as ground:
        trail: list[tuple[float, float]] = []

        async def watch() -> None:
            while True:
                trail.append(ground.peer.position_m[:2])
                await ground.clock.sleep(0.2)

        watching = asyncio.create_task(watch())
        inclusion = [[-50, -50], [90, -50], [90, 90], [-50, 90]]
        frame = {"zones": [ZONE], "fence": {"inclusion": inclusion, "exclusions": [ZONE]}}
        value = await ground.do("drone.survey", swaths=SWATHS, altitude_m=15, speed_mps=5, frame=frame)
        watching.cancel()

        assert value["flown"] == ground.flown() == ["S00", "S01", "S02"]
        assert value["sample_source"] == "vehicle log"
        assert not any(10.5 < x < 19.5 and 5.5 < y < 14.5 for x, y in trail)
        assert not ground.peer.autopilot.armed  # it went home by itself, `then: home`
        times = [row[0] for row in value["samples"]]
        assert times == sorted(set(times))
        assert 0 < value["battery_fraction"] < 1
        assert value["distance_m"] > 150


async def test_what_the_link_drops_is_asked_for_again_and_nothing_is_lost(tmp_path: Path) -> None:
    async with field(tmp_path, loss=0.1) as ground:
        value = await ground.do("drone.survey", swaths=SWATHS, altitude_m=15, speed_mps=6)
        heard = sum(len(chunk.get("samples", ())) for chunk in ground.attempts["k"].chunks)
        assert value["flown"] == ["S00", "S01", "S02"]
        assert value["sample_source"] == "vehicle log"
        assert len(value["samples"]) > heard


async def test_the_fence_is_accepted_before_the_first_arm(tmp_path: Path) -> None:
    async with field(tmp_path) as ground:
        await ground.do("drone.goto", to=[5, 5], altitude_m=8)
        assert ground.peer.autopilot.fence.zones


async def test_a_fence_that_is_refused_keeps_the_motors_off(tmp_path: Path) -> None:
    async with field(tmp_path) as ground:
        frame = {"fence": {"inclusion": [[0, 0], [1, 1]], "exclusions": []}}
        with pytest.raises(DeviceFault, match="refused the plan"):
            await ground.do("drone.goto", to=[5, 5], frame=frame)
        assert not ground.peer.autopilot.armed
        assert "COMMAND_LONG" not in ground.peer.heard  # not one command, so none to arm
        assert isinstance(await ground.clock.carry(ground.drone.recall("k")), Never)


# -- silence, people, stopping ------------------------------------------------------------------------------------


async def test_a_vehicle_that_dies_in_flight_is_lost_and_says_when_it_was_last_heard(
    tmp_path: Path,
) -> None:
    async with field(tmp_path) as ground:
        run = ground.begin("drone.survey", swaths=SWATHS, altitude_m=10, speed_mps=5)
        await ground.until(lambda: ground.flown() == ["S00"])
        died_s = ground.clock.now_s()
        ground.peer.kill()
        with pytest.raises(DeviceLost, match="last HEARTBEAT"):
            await ground.clock.carry(run)
        lost = next(chunk["lost"] for chunk in ground.attempts["k"].chunks if "lost" in chunk)
        assert died_s - 1.1 <= lost["last_heartbeat_s"] <= died_s
        assert 3.0 < lost["lost_s"] - lost["last_heartbeat_s"] < 4.2
        assert ground.flown() == ["S00"]
        status = ground.drone.status()
        assert not status.alive
        assert "no heartbeat" in ground.drone.estimate([Shape("drone.home", {})], status)[0].refusal
        with pytest.raises(DeviceLost):
            await ground.clock.carry(ground.drone.observe())


async def test_a_person_who_takes_over_suspends_the_task_and_giving_back_resumes_it(tmp_path: Path) -> None:
    async with field(tmp_path) as ground:
        run = ground.begin("drone.survey", swaths=SWATHS, altitude_m=10, speed_mps=5)
        await ground.until(lambda: ground.flown() == ["S00"])
        ground.peer.person_takes_over()
        await ground.clock.advance(60.0)
        assert not run.done()
        assert any("someone else's hand" in note for note in ground.attempts["k"].notes)
        before = len([name for name in ground.peer.heard if name != "HEARTBEAT"])
        await ground.clock.advance(60.0)
        assert len([name for name in ground.peer.heard if name != "HEARTBEAT"]) == before  # no storm: not one command

        ground.peer.person_gives_back()
        assert (await ground.clock.carry(run)).value["flown"] == ["S00", "S01", "S02"]


async def test_a_person_who_keeps_it_ends_the_task_without_a_retry(tmp_path: Path) -> None:
    async with field(tmp_path, config={"takeover_s": 30.0}) as ground:
        run = ground.begin("drone.survey", swaths=SWATHS, altitude_m=10)
        await ground.until(lambda: ground.peer.position_m[2] > 8)
        ground.peer.person_takes_over()
        with pytest.raises(DeviceFault, match="position mode by someone else") as fault:
            await ground.clock.carry(run)
        assert not fault.value.retryable


async def test_a_low_battery_brings_it_home_and_the_task_is_not_tried_again(tmp_path: Path) -> None:
    async with field(tmp_path) as ground:
        run = ground.begin("drone.survey", swaths=SWATHS, altitude_m=10, speed_mps=5)
        await ground.until(lambda: ground.flown() == ["S00"])
        ground.peer.battery = 0.15
        with pytest.raises(DeviceFault, match="battery") as fault:
            await ground.clock.carry(run)
        assert not fault.value.retryable


async def test_cancelling_ends_in_a_confirmed_hold(tmp_path: Path) -> None:
    async with field(tmp_path, loss=0.1) as ground:
        run = ground.begin("drone.survey", swaths=SWATHS, altitude_m=10)
        await ground.until(lambda: ground.flown() == ["S00"])
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ground.clock.carry(run)
        assert ground.peer.autopilot.mode.name == "HOLD"
        assert ground.peer.autopilot.armed
        recalled = await ground.clock.carry(ground.drone.recall("k"))
        assert isinstance(recalled, Unknown)


async def test_a_node_that_goes_down_lets_the_vehicle_fly_on(tmp_path: Path) -> None:
    async with field(tmp_path) as ground:
        run = ground.begin("drone.survey", swaths=SWATHS, altitude_m=10)
        await ground.until(lambda: ground.flown() == ["S00"])
        ground.attempts["k"].leaving = True
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ground.clock.carry(run)
        assert ground.peer.autopilot.mode.name != "HOLD"
        recalled = await ground.clock.carry(ground.drone.recall("k"))
        assert isinstance(recalled, Running)


async def test_halt_holds_the_vehicle_and_fails_the_task_for_good(tmp_path: Path) -> None:
    async with field(tmp_path) as ground:
        run = ground.begin("drone.survey", swaths=SWATHS, altitude_m=10)
        await ground.until(lambda: ground.flown() == ["S00"])
        await ground.drone.halt()
        with pytest.raises(DeviceFault, match="halted") as fault:
            await ground.clock.carry(run)
        assert not fault.value.retryable
        await ground.clock.advance(1.0)
        assert ground.peer.autopilot.mode.name == "HOLD"


async def test_the_halt_recipe_holds_it_without_the_driver(tmp_path: Path) -> None:
    async with field(tmp_path) as ground:
        run = ground.begin("drone.survey", swaths=SWATHS, altitude_m=10)
        await ground.until(lambda: ground.flown() == ["S00"])
        for recipe in ground.drone.halt_recipes():
            assert isinstance(recipe, DatagramHalt)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                out.sendto(recipe.payload, (recipe.host, recipe.port))
        await ground.clock.advance(8.0)
        assert ground.peer.autopilot.mode.name == "HOLD"
        assert not run.done()  # held from outside: it waits as it waits for a person
        run.cancel()


# -- after a crash ------------------------------------------------------------------------------------------------


async def test_recall_gives_each_of_its_four_answers(tmp_path: Path) -> None:
    async with field(tmp_path) as ground:
        assert isinstance(await ground.clock.carry(ground.drone.recall("k")), Never)

        run = ground.begin("drone.goto", "k", to=[60, 60], altitude_m=8)
        await ground.until(lambda: ground.peer.position_m[2] > 4)
        assert isinstance(await ground.clock.carry(ground.drone.recall("k")), Running)

        value = (await ground.clock.carry(run)).value
        after = await ground.open(ground.fresh())
        recalled = await ground.clock.carry(after.recall("k"))
        assert isinstance(recalled, Done)
        assert recalled.result.value == value
        await ground.close(after)

        run = ground.begin("drone.goto", "other", to=[0, 0], altitude_m=8)
        await ground.until(lambda: ground.peer.autopilot.mode.name == "MISSION")
        ground.peer.kill()
        with pytest.raises(DeviceLost):
            await ground.clock.carry(run)
        assert isinstance(await ground.clock.carry(ground.drone.recall("other")), Unknown)


async def crash(ground: Field, run: asyncio.Task[Result]) -> None:
    """The kernel is gone: no last word to the vehicle, no confirmation, no heartbeat any more."""
    link = ground.drone._link
    assert link is not None
    await link.close()
    await ground.clock.carry(asyncio.wait([run]))


async def test_after_a_crash_the_flight_in_progress_is_joined(tmp_path: Path) -> None:
    async with field(tmp_path) as ground:
        run = ground.begin("drone.survey", swaths=SWATHS, altitude_m=10, speed_mps=4)
        await ground.until(lambda: ground.flown() == ["S00"])
        await crash(ground, run)
        await ground.clock.advance(2.0)
        uploads = ground.peer.heard.count("MISSION_COUNT")

        after = await ground.open(ground.fresh())
        assert isinstance(await ground.clock.carry(after.recall("k")), Running)
        value = await ground.do("drone.survey", drone=after, swaths=SWATHS, altitude_m=10, speed_mps=4)
        assert value["flown"] == ["S00", "S01", "S02"]
        assert ground.peer.heard.count("MISSION_COUNT") == uploads + 1  # the fence, not the plan
        assert value["samples"][0][0] < ground.clock.now_s() - 20  # those from before the crash are there as well
        await ground.close(after)


async def test_a_vehicle_that_had_gone_home_by_itself_flies_only_what_is_left(tmp_path: Path) -> None:
    async with field(tmp_path) as ground:
        run = ground.begin("drone.survey", swaths=SWATHS, altitude_m=10, speed_mps=4)
        await ground.until(lambda: ground.flown() == ["S00"])
        await crash(ground, run)
        await ground.until(lambda: not ground.peer.autopilot.armed)  # link lost, returned, landed

        after = await ground.open(ground.fresh())
        assert isinstance(await ground.clock.carry(after.recall("k")), Running)
        begun_s = ground.clock.now_s()
        value = await ground.do("drone.survey", drone=after, swaths=SWATHS, altitude_m=10, speed_mps=4)
        assert value["flown"] == ["S00", "S01", "S02"]
        again = [row for row in value["samples"] if row[0] > begun_s and abs(row[2] - 20.0) < 2.0 and row[3] > 8]
        assert len(again) <= 3  # it crossed the first swath's line, it did not fly it again
        await ground.close(after)


async def test_a_flight_from_before_the_crash_waits_for_one_that_was_quicker_and_then_ends(tmp_path: Path) -> None:
    async with field(tmp_path) as ground:
        run = ground.begin("drone.survey", swaths=SWATHS, altitude_m=10, speed_mps=5)
        await ground.until(lambda: ground.flown() == ["S00"])
        await crash(ground, run)
        after = await ground.open(ground.fresh())
        first = ground.begin("drone.goto", "quicker", after, to=[20, 5], altitude_m=10)
        second = ground.begin("drone.survey", "k", after, swaths=SWATHS, altitude_m=10, speed_mps=5)
        await ground.clock.carry(first)
        assert (await ground.clock.carry(second)).value["flown"] == ["S00", "S01", "S02"]
        third = ground.begin("drone.goto", "third", after, to=[40, 5], altitude_m=10)
        await ground.until(lambda: ground.peer.autopilot.mode.name == "MISSION")
        with pytest.raises(Refused, match="another task"):
            await ground.do("drone.goto", "fourth", after, to=[0, 5], altitude_m=10)
        await ground.clock.carry(third)
        await ground.close(after)


async def test_a_plan_that_someone_else_replaced_is_unknown(tmp_path: Path) -> None:
    async with field(tmp_path) as ground:
        run = ground.begin("drone.survey", swaths=SWATHS, altitude_m=10)
        await ground.until(lambda: ground.flown() == ["S00"])
        await crash(ground, run)
        ground.peer.autopilot.load((), 0)
        after = await ground.open(ground.fresh())
        assert isinstance(await ground.clock.carry(after.recall("k")), Unknown)
        await ground.close(after)


async def test_an_older_kernel_may_not_command(tmp_path: Path) -> None:
    async with field(tmp_path) as ground:
        ground.attempts["new"] = FakeAttempt("new", epoch=5, clock=ground.clock)
        await ground.do("drone.home", "new")
        ground.attempts["old"] = FakeAttempt("old", epoch=4, clock=ground.clock)
        with pytest.raises(Refused, match="epoch 4"):
            await ground.do("drone.home", "old")


# -- reading and estimating ---------------------------------------------------------------------------------------


async def test_readings_have_units_and_the_air_has_a_sigma(tmp_path: Path) -> None:
    async with field(tmp_path, boxes=[(8.0, -4.0, 12.0, 4.0)]) as ground:
        await ground.clock.advance(5.0)
        readings = {reading.name: reading for reading in await ground.drone.observe()}
        assert readings["battery"].unit is Unit.ONE
        assert readings["pm25"].unit is Unit.MICROGRAM_PER_CUBIC_METRE
        assert readings["pm25"].sigma
        assert readings["nearest_obstacle"].value == pytest.approx(8.0, abs=0.2)
        assert {"east", "north", "up", "speed", "home_east"} <= set(readings)


def status(battery: float) -> DeviceStatus:
    return DeviceStatus(1, readings=(Reading("battery", battery, Unit.ONE, 0.0),))


def test_an_estimate_prices_the_way_there_and_back(tmp_path: Path) -> None:
    (drone,) = devices_at(tmp_path)
    near, far = drone.estimate(
        [Shape("drone.goto", {"to": [10, 0]}), Shape("drone.goto", {"to": [200, 0]})], status(1.0)
    )
    assert far.duration_s > near.duration_s + 80
    assert far.energy_j > near.energy_j
    assert near.terms["battery_after"] < 1.0


def test_an_estimate_refuses_what_the_battery_cannot_do(tmp_path: Path) -> None:
    (drone,) = devices_at(tmp_path)
    (estimate,) = drone.estimate([Shape("drone.survey", {"swaths": SWATHS})], status(0.27))
    assert "below the reserve of 25%" in estimate.refusal
    (home,) = drone.estimate([Shape("drone.home", {})], status(0.05))
    assert not home.refusal  # going home is never refused for the battery


def test_unresolved_references_are_estimated_and_wrong_arguments_refused(tmp_path: Path) -> None:
    (drone,) = devices_at(tmp_path)
    soft, wrong = drone.estimate(
        [Shape("drone.survey", {"swaths": "${fly.swaths}"}), Shape("drone.goto", {"to": "Grid-1A"})], status(1.0)
    )
    assert not soft.refusal
    assert "Grid-1A" in wrong.refusal


def devices_at(home: Path) -> Any:
    site = Site(clock=FakeClock(), artifacts=MemoryArtifacts(), home=str(home))
    return DRIVER.devices(MavlinkConfig(vehicles=(Endpoint("drone-1"),)), site)


@pytest.mark.parametrize(
    ("action", "arguments", "said"),
    [
        ("drone.goto", {"to": "Nowhere"}, "Nowhere"),
        ("drone.goto", {"to": {"type": "Polygon"}}, "no place"),
        ("drone.goto", {"to": [1, 2], "speed_mps": 50}, "speed_mps is 50"),
        ("drone.sample", {"samples": 0}, "samples is 0"),
        ("drone.survey", {}, "missing swaths"),
        ("drone.survey", {"swaths": "all"}, "needs `swaths`"),
        ("drone.goto", {"to": [1, 2], "too": 1}, "unknown too"),
        ("drone.survey", {"swaths": [SWATHS[0], SWATHS[0]]}, "same id"),
        ("drone.survey", {"swaths": SWATHS, "then": "dance"}, "dance"),
        ("drone.dance", {}, "no action"),
    ],
)
async def test_wrong_arguments_are_refused_on_the_ground(
    tmp_path: Path, action: str, arguments: dict[str, Any], said: str
) -> None:
    async with field(tmp_path) as ground:
        with pytest.raises(Refused) as refused:
            await ground.do(action, **arguments)
        assert said in str(refused.value)
        assert not ground.peer.autopilot.armed


async def test_nobody_at_the_address_is_a_fault_on_opening(tmp_path: Path) -> None:
    (drone,) = devices_at(tmp_path)
    clock = FakeClock()
    site = Site(clock=clock, artifacts=MemoryArtifacts(), home=str(tmp_path))
    (drone,) = DRIVER.devices(MavlinkConfig(vehicles=(Endpoint("drone-1", port=9),)), site)
    with pytest.raises(DeviceFault, match="drone-1"):
        await clock.carry(drone.__aenter__())


def test_a_wrong_configuration_is_refused(tmp_path: Path) -> None:
    site = Site(clock=FakeClock(), artifacts=MemoryArtifacts(), home=str(tmp_path))
    with pytest.raises(Invalid, match="halt"):
        DRIVER.devices(MavlinkConfig(halt="spin"), site)


def test_the_driver_imports_nothing_heavy() -> None:
    script = "import qaios.drivers.mavlink, sys; print([m for m in sys.modules if m.split('.')[0] in %r])"
    heavy = ("pymavlink", "shapely", "ortools", "mujoco", "scipy")
    said = subprocess.run([sys.executable, "-c", script % (heavy,)], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_ids_of_plans_differ_by_key_and_by_upload() -> None:
    ids = {plan_id(key, upload) for key, upload in itertools.product(("a", "b", "a#1"), range(3))}
    assert len(ids) >= 8
    assert 0 not in ids
