"""The compute device keeps every promise of the kit: once as a caller of functions, once as a runner of programs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np

from qaios.contracts import Device, Site
from qaios.core.values import Batch, Shape, Task
from qaios.drivers.compute import Compute, ComputeConfig
from qaios.drivers.ledger import Ledger
from qaios.testing.device_kit import DeviceKit
from qaios.testing.memory import FakeAttempt

FOLDER = str(Path(__file__).parent)
HERE = "contract_functions"


def call(function: str, *args: object) -> Task:
    return Task(1, "mission", function, "compute.call", {"call": f"{HERE}:{function}", "args": list(args)})


def python(script: str) -> Task:
    return Task(1, "mission", "program", "compute.run", {"command": [sys.executable, "-S", "-c", script]})


class ComputeKit(DeviceKit):
    def make(self, site: Site) -> Device:
        return Compute(ComputeConfig(processes=2, path=(FOLDER,)), site)

    def unopenable(self, site: Site) -> Device:
        (self.home / "devices").write_text("a file where a folder should be")
        return self.make(site)


class TestCalls(ComputeKit):
    lacks = {
        "slow_observe": "it counts its own workers and waits for nothing",
        "unknown_key": "calls may run again, so nothing is remembered across a crash",
    }

    def task(self) -> Task:
        return call("mark", str(self.home / "marks"))

    def bad_tasks(self) -> list[Task]:
        return [Task(1, "m", "t", "compute.call", arguments) for arguments in ({}, {"call": 3}, {"call": "x"})]

    def slow_task(self) -> Task:
        return call("run_for_ever")

    def faulty_task(self) -> Task:
        return call("die")

    def effects(self, device: Device) -> int:
        path = self.home / "marks"
        return len(path.read_text(encoding="ascii")) if path.exists() else 0

    def batch(self, count: int) -> Batch:
        return Batch(np.arange(count), "mission", Shape("compute.call", {"call": f"{HERE}:add", "args": [1, 2]}), ())


class TestPrograms(ComputeKit):
    lacks = {
        "slow_observe": "it counts its own workers and waits for nothing",
        "batch": "see TestCalls: programs run one by one",
    }

    def task(self) -> Task:
        return python(f"open({str(self.home / 'marks')!r}, 'a').write('x')")

    def bad_tasks(self) -> list[Task]:
        wrong: tuple[dict[str, object], ...] = (
            {},
            {"command": "ls"},
            {"command": []},
            {"command": ["no-such-program-here"]},
        )
        return [Task(1, "m", "t", "compute.run", arguments) for arguments in wrong]

    def slow_task(self) -> Task:
        return python(f"import time; open({str(self.home / 'begun')!r}, 'x').close(); time.sleep(3600)")

    async def began(self, device: Device, attempt: FakeAttempt) -> None:
        begun = self.home / "begun"
        while not begun.exists():  # noqa: ASYNC110 - the word comes from another process, through a file
            await asyncio.sleep(0.02)
        begun.unlink()

    def faulty_task(self) -> Task:
        return python("raise SystemExit(3)")

    def effects(self, device: Device) -> int:
        path = self.home / "marks"
        return len(path.read_text(encoding="ascii")) if path.exists() else 0

    async def unknown_key(self, site: Site) -> str:
        ledger = Ledger(self.home / "devices" / "cpu" / "ledger")
        ledger.began("lost", epoch=1)
        return "lost"
