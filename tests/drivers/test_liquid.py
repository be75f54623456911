"""The learning device keeps the promises of a device, and what it brings back is the map of `qaios.learning`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qaios.contracts import Device, Site
from qaios.core.errors import DeviceFault, Refused
from qaios.core.values import Shape, Task
from qaios.drivers.liquid import DRIVER, Liquid, LiquidConfig
from qaios.learning.network import unpack
from qaios.testing.device_kit import DeviceKit
from qaios.testing.memory import FakeAttempt, MemoryArtifacts


def _row(k: int) -> list[float]:
    """The kth sample of a flight over four swaths and one bump."""
    column, swath = k % 20, k // 20
    pm25 = 9.0 + 6.0 * math.exp(-((column - 9) ** 2) / 20)
    return [0.7 * k + 0.2 * math.sin(k), 4.0 * column, 16.0 * swath, 20.0, pm25, 1.0]


ROWS = [_row(k) for k in range(80)]
QUICK: dict[str, Any] = {"samples": ROWS, "step_m": 20.0, "epochs": 3, "seed": 1, "picture": False}


def quick(**more: Any) -> Task:
    return Task(1, "m", "map", "ai.map", QUICK | more)


class TestLiquid(DeviceKit):
    lacks = {
        "faulty_task": "what it fails at by itself is refused; the death of its worker is tested below",
        "unopenable": "it is this machine, and always there",
        "effects": "training leaves no trace in the world",
        "slow_observe": "a reading is a number it has in memory",
        "unknown_key": "training may run again, so it never answers Unknown",
        "batch": "one training at a time",
    }

    def make(self, site: Site) -> Device:
        return Liquid(LiquidConfig(), site)

    def task(self) -> Task:
        return quick()

    def slow_task(self) -> Task:
        return quick(
            epochs=2000, cell="auto", samples=[[row[0] + 60.0 * n, *row[1:]] for n in range(30) for row in ROWS]
        )

    def bad_tasks(self) -> Sequence[Task]:
        return [
            Task(1, "m", "map", "ai.map", {}),
            quick(samples=ROWS[:5]),
            quick(cell="lstm"),
            quick(epochs=-1),
            quick(epoch=3),
        ]


def device() -> Liquid:
    from qaios.testing.clock import FakeClock

    (made,) = DRIVER.devices(LiquidConfig(), Site(clock=FakeClock(), artifacts=MemoryArtifacts(), home="/nowhere"))
    assert isinstance(made, Liquid)
    return made


async def test_the_result_has_map_errors_and_three_files_and_says_where_it_comes_from() -> None:
    async with device() as liquid:
        attempt = FakeAttempt()
        result = await liquid.execute(quick(picture=True, title="A test"), attempt)
    assert {"map", "plume_error", "baseline_error", "baseline", "heldout", "cell", "winner"} <= set(result.value)
    assert "files" not in result.value
    names = {artifact.name: artifact for artifact in result.artifacts}
    assert set(names) == {"plume-model.npz", "plume-map.json", "plume-map.png"}
    model = attempt.artifacts.get(names["plume-model.npz"].sha256)
    assert unpack(model)[1]["data_sha256"] == result.provenance["data_sha256"]
    drawn = msgspec.json.decode(attempt.artifacts.get(names["plume-map.json"].sha256))
    assert drawn == result.value["map"]
    assert attempt.artifacts.get(names["plume-map.png"].sha256).startswith(b"\x89PNG")
    assert attempt.fractions[-1] == 1.0


async def test_without_a_seed_chance_comes_from_the_attempt() -> None:
    async with device() as liquid:
        one, same, other = [
            (await liquid.execute(quick(seed=None, epochs=2), FakeAttempt(key, seed=seed))).value
            for key, seed in (("a", 0), ("a/again", 0), ("b", 5))
        ]
    assert one["seed"] == FakeAttempt("a", seed=0).random.getrandbits(31)
    assert len({one["seed"], same["seed"], other["seed"]}) == 3


async def test_a_worker_that_is_killed_is_a_retryable_fault_and_the_next_attempt_has_a_new_one() -> None:
    async with device() as liquid:
        attempt = FakeAttempt("k")
        run = asyncio.ensure_future(liquid.execute(TestLiquid().slow_task(), attempt))
        await attempt.said()
        await liquid.halt()
        with pytest.raises(DeviceFault, match="halted") as fault:
            await run
        assert fault.value.retryable
        assert (await liquid.execute(quick(), FakeAttempt("k"))).value["samples"] == 80


async def test_an_older_kernel_is_refused() -> None:
    async with device() as liquid:
        await liquid.execute(quick(), FakeAttempt("new", epoch=3))
        with pytest.raises(Refused, match="epoch 2"):
            await liquid.execute(quick(), FakeAttempt("old", epoch=2))


def test_the_estimate_grows_with_samples_epochs_and_cells_and_stands_without_the_flight() -> None:
    liquid = device()

    def lasts(**form: Any) -> float:
        (estimate,) = liquid.estimate([Shape("ai.map", {"samples": "${fly.samples}", **form})], liquid.status())
        assert not estimate.refusal
        return estimate.duration_s

    assert lasts() < lasts(cell="auto") < lasts(cell="auto", epochs=600)
    assert lasts(samples=ROWS) < lasts(samples=ROWS * 30) == lasts(samples=[ROWS] * 30)


def test_nothing_heavy_is_imported_with_the_driver() -> None:
    import subprocess
    import sys

    script = (
        "import qaios.drivers.liquid, sys; print(*({'scipy','matplotlib','qaios.learning.plume'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2] / "src"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": str(root)})  # fmt: skip
    assert done.stdout.strip() == ""
