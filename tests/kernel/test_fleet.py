"""The fleet: opened when asked for, lost and found, halted until released, unharmed by its drivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import pytest

from qaios.core.errors import DeviceFault, NotFound
from qaios.core.values import DeviceSpec, DeviceState, DeviceStatus, Shape
from qaios.kernel.fleet import Fleet
from qaios.testing.clock import FakeClock
from qaios.testing.scripted import ACT, ScriptedDevice

Changes = list[tuple[str, str, str]]


class Counting(ScriptedDevice):
    """Counts how often it is opened and closed, opens when let, and lives as told."""

    def __init__(self, clock: FakeClock, name: str = "d", parent: str = "", capacity: int = 1) -> None:
        super().__init__(clock, name=name, capacity=capacity)
        self._spec = DeviceSpec(name=name, driver="t", kind="test", actions=(ACT,), capacity=capacity, parent=parent)
        self.opened = self.closed = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.alive = True
        self.garbage: Exception | None = None

    async def __aenter__(self) -> Self:
        self.opened += 1
        await self.gate.wait()
        if self.garbage is not None:
            raise self.garbage
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.closed += 1
        await super().__aexit__(kind, error, trace)
        if self.garbage is not None:
            raise self.garbage

    def status(self) -> DeviceStatus:
        return DeviceStatus(alive=self.alive)


@asynccontextmanager
async def fleet_of(clock: FakeClock, *devices: ScriptedDevice) -> AsyncIterator[tuple[Fleet, Changes]]:
    changes: Changes = []

    async def on_change(name: str, state: DeviceState, reason: str, _pid: int | None) -> None:
        changes.append((name, str(state), reason))

    fleet = Fleet(devices, clock, on_change)
    watching = asyncio.create_task(fleet.watch())
    try:
        yield fleet, changes
    finally:
        watching.cancel()
        await fleet.close()


def states(changes: Changes) -> list[str]:
    return [state for _, state, _ in changes]


async def test_a_device_opens_when_work_asks_for_it_and_closes_with_the_fleet() -> None:
    clock = FakeClock()
    device, other = Counting(clock), Counting(clock, "other")
    async with fleet_of(clock, device, other) as (fleet, changes):
        assert fleet.wanted(["test.act"]) == ["d", "other"]
        assert fleet.wanted(["test.none"]) == []
        await fleet.open(["d"])
        assert fleet["d"].usable
        assert fleet.wanted(["test.act"]) == ["other"]
        with pytest.raises(NotFound):
            fleet["nobody"]
    assert states(changes) == ["opening", "idle", "closed"]
    assert (device.opened, device.closed, other.opened) == (1, 1, 0)


async def test_two_opens_at_once_are_one_and_who_gives_up_does_not_spoil_it() -> None:
    clock = FakeClock()
    device = Counting(clock)
    device.gate.clear()
    async with fleet_of(clock, device) as (fleet, _):
        impatient, patient = asyncio.create_task(fleet.open(["d"])), asyncio.create_task(fleet.open(["d"]))
        await clock.settle()
        impatient.cancel()
        await clock.settle()
        device.gate.set()
        await patient
        assert fleet["d"].usable
        assert device.opened == 1


async def test_two_devices_of_one_name_are_refused() -> None:
    clock = FakeClock()
    with pytest.raises(DeviceFault, match="two devices are called d"):
        async with fleet_of(clock, Counting(clock), Counting(clock)):
            pass


@pytest.mark.parametrize("error", [DeviceFault("no link"), ZeroDivisionError("garbage")])
async def test_a_device_that_cannot_be_opened_is_lost_and_tried_again(error: Exception) -> None:
    clock = FakeClock()
    device = Counting(clock)
    device.garbage = error
    async with fleet_of(clock, device) as (fleet, changes):
        await fleet.open(["d"])
        assert states(changes) == ["opening", "lost"]
        assert str(error) in changes[-1][2]
        assert not fleet.view()[0].hopeless
        await clock.advance(13.0)
        assert fleet.view()[0].hopeless
        assert device.opened == 3
        device.garbage = None
        await clock.advance(6.0)
        assert fleet["d"].usable
        assert states(changes) == ["opening", "lost", "idle"], "failing again is nothing new"


async def test_a_device_that_falls_silent_is_lost_and_comes_back() -> None:
    clock = FakeClock()
    device = Counting(clock)
    async with fleet_of(clock, device) as (fleet, changes):
        await fleet.open(["d"])
        device.alive = False
        await clock.advance(1.0)
        assert changes[-1] == ("d", "lost", "no longer heard")
        device.alive = True
        await clock.advance(6.0)
        assert states(changes) == ["opening", "idle", "lost", "idle"]
        assert device.closed == 1, "it is closed before it is opened again"


async def test_a_lost_device_with_work_on_it_is_told_of_and_not_opened_over_it() -> None:
    clock = FakeClock()
    device = Counting(clock)
    silent: list[str] = []
    async with fleet_of(clock, device) as (fleet, _):
        fleet.on_silent = silent.append
        await fleet.open(["d"])
        fleet.hold("d")
        await fleet.lost("d", "gone")
        await clock.advance(4.0)
        assert not silent
        await clock.advance(3.0)
        assert set(silent) == {"d"}
        assert device.opened == 1
        fleet.free("d")
        await clock.advance(6.0)
        assert device.opened == 2


async def test_a_driver_that_cannot_say_how_it_is_counts_as_silent() -> None:
    clock = FakeClock()

    class Mute(Counting):
        def status(self) -> DeviceStatus:
            raise RuntimeError("no status")

    async with fleet_of(clock, Mute(clock)) as (fleet, _):
        await fleet.open(["d"])
        await clock.advance(1.0)
        assert fleet["d"].state is DeviceState.LOST
        assert fleet.view()[0].unusable == "is lost: no longer heard"


@pytest.mark.parametrize("before", ["closed", "opening", "idle", "lost"])
async def test_a_halt_holds_whatever_the_device_was_and_only_a_release_ends_it(before: str) -> None:
    clock = FakeClock()
    device = Counting(clock)
    async with fleet_of(clock, device) as (fleet, changes):
        if before == "opening":
            device.gate.clear()
            fleet.open_soon(["d"])
            await clock.settle()
        elif before != "closed":
            await fleet.open(["d"])
        if before == "lost":
            await fleet.lost("d", "gone")
        await fleet.halt(["d"])
        device.gate.set()
        await clock.advance(20.0)
        assert fleet["d"].state is DeviceState.HALTED
        assert fleet.wanted(["test.act"]) == []
        assert fleet.view()[0].free == 0
        assert changes[-1][1] == "halted"
        await fleet.release("d")
        assert fleet["d"].state is (DeviceState.CLOSED if before == "closed" else DeviceState.IDLE)


async def test_a_halt_reaches_every_device_though_one_driver_fails() -> None:
    clock = FakeClock()

    class Bad(Counting):
        async def halt(self) -> None:
            raise RuntimeError("no brakes")

    bad, good = Bad(clock, "bad"), Counting(clock, "good")
    async with fleet_of(clock, bad, good) as (fleet, changes):
        await fleet.halt(["bad", "good"])
        assert good.halts == 1
        assert ("bad", "halted", "halted, but its driver failed: RuntimeError: no brakes") in changes


async def test_closing_goes_on_though_one_driver_fails_and_one_is_still_opening() -> None:
    clock = FakeClock()
    bad, opening, good = Counting(clock, "bad"), Counting(clock, "opening"), Counting(clock, "good")
    opening.gate.clear()
    async with fleet_of(clock, bad, opening, good) as (fleet, changes):
        await fleet.open(["bad", "good"])
        fleet.open_soon(["opening"])
        await clock.settle()
        bad.garbage = RuntimeError("stuck")
    assert {name: reason for name, state, reason in changes if state == "closed"} == {
        "opening": "",
        "good": "",
        "bad": "while closing: RuntimeError: stuck",
    }


async def test_what_runs_on_a_part_takes_capacity_from_the_whole_and_its_other_parts() -> None:
    clock = FakeClock()
    devices = (Counting(clock, "qpu", capacity=2), *(Counting(clock, f"r{n}", "qpu") for n in range(3)))
    async with fleet_of(clock, *devices) as (fleet, _):
        await fleet.open(["qpu", "r0", "r1", "r2"])
        assert [berth.free for berth in fleet.view()] == [2, 1, 1, 1]
        fleet.hold("r0")
        assert [berth.free for berth in fleet.view()] == [1, 0, 1, 1]
        fleet.hold("r1")
        assert [berth.free for berth in fleet.view()] == [0, 0, 0, 0]
        fleet.free("r0")
        assert [berth.free for berth in fleet.view()] == [1, 1, 0, 1]


async def test_devices_work_out_their_estimates_side_by_side() -> None:
    clock, let = FakeClock(), asyncio.Event()
    begun: list[tuple[str, int]] = []

    class Slow(Counting):
        async def prepare(self, shapes: Sequence[Shape]) -> None:
            begun.append((self.spec.name, len(shapes)))
            await let.wait()

    async with fleet_of(clock, Slow(clock, "a"), Slow(clock, "b")) as (fleet, _):
        await fleet.open(["a", "b"])
        shapes = [(0, Shape(ACT.name, {})), (1, Shape("test.none", {}))]
        assert set(fleet.prepare(shapes)) == {0}
        preparing = [task for name in ("a", "b") if (task := fleet[name].preparing) is not None]
        fleet.prepare(shapes)  # asked again meanwhile: nothing is begun twice
        await asyncio.sleep(0)
        assert begun == [("a", 1), ("b", 1)]
        let.set()
        await asyncio.wait(preparing)
        assert fleet.prepare(shapes) == {}
