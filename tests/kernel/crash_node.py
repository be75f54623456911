"""One life of a node that is about to be killed: `python -m tests.kernel.crash_node HOME`.

A kernel on a real journal and one device. Each effect is a line in a file, synced before the device says it is done;
what the device remembers for `recall` is a second file, written after it. A kill between the two is what makes an
outcome unknown. The process ends by itself, with exit code 0, when no task of its mission can go on.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from qaios.contracts import Attempt
from qaios.core.errors import DeviceFault
from qaios.core.events import decode_events, encode_events
from qaios.core.values import Done, Estimate, Never, Recall, Result, Task, TaskSpec, Unknown
from qaios.journal.sqlite import SqliteJournal
from qaios.kernel.bus import LocalBus
from qaios.kernel.kernel import EVENTS_TOPIC, Kernel, NewMission
from qaios.kernel.policy import Greedy
from qaios.testing.memory import MemoryArtifacts
from qaios.testing.scripted import ScriptedDevice

ACTS, CALLS = 9, 30


class RealClock:
    def now_s(self) -> float:
        return time.time()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)


def noted(path: Path, line: str) -> None:
    """Append one line and wait until the disk has it."""
    with path.open("a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
    step()


def step() -> None:
    """Tell whoever watches that something has just become durable, or is about to."""
    os.write(1, b".")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


class Actor(ScriptedDevice):
    """Its world is a folder. It begins (file), does (file), and remembers that it is done (file)."""

    def __init__(self, home: Path) -> None:
        super().__init__(RealClock(), name="actor", capacity=3, estimate=Estimate(duration_s=0.02))
        self.home = home

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        if attempt.key in lines(self.home / "done"):
            return Result(task.name)
        noted(self.home / "begun", attempt.key)
        await asyncio.sleep(0.002)
        if task.name == "act-3" and len([k for k in lines(self.home / "begun") if k == attempt.key]) == 1:
            raise DeviceFault("the first time never works")
        noted(self.home / "effects", attempt.key)
        await asyncio.sleep(0.001)
        noted(self.home / "done", attempt.key)
        spawn = (TaskSpec(name="child", action="test.act"),) if task.name == "act-5" else ()
        return Result(task.name, spawn=spawn)

    async def recall(self, key: str) -> Recall:
        if key in lines(self.home / "done"):
            name = key.rpartition("/")[2]
            return Done(Result(name, spawn=(TaskSpec(name="child", action="test.act"),) if name == "act-5" else ()))
        return Unknown("it was at it") if key in lines(self.home / "begun") else Never()


def mission() -> NewMission:
    """A chain of effects with calls that may run again beside and behind it."""
    tasks = [
        TaskSpec(name=f"act-{number}", action="test.act", needs=(f"act-{number - 3}",) if number >= 3 else ())
        for number in range(ACTS)
    ]
    tasks += [
        TaskSpec(name=f"call-{number}", action="test.compute", needs=(f"act-{number % 3}",) if number % 2 else ())
        for number in range(CALLS)
    ]
    return NewMission(name="crash", tasks=tasks, key="once")


async def live(home: Path) -> None:
    journal = SqliteJournal(home / "journal.db", encode=encode_events, decode=decode_events)
    bus = LocalBus(_fail)
    bus.listen(EVENTS_TOPIC, lambda _batch: step())
    kernel = Kernel(
        journal=journal, devices=[Actor(home)], policy=Greedy(), clock=RealClock(), bus=bus,
        artifacts=MemoryArtifacts(), node="crash",
    )  # fmt: skip
    await kernel.recover()
    run = asyncio.create_task(kernel.run(lambda: None))
    name = await kernel.submit(mission())
    noted(home / "acknowledged", name)
    ended = asyncio.create_task(kernel.ended(name))
    await asyncio.wait({run, ended}, return_when=asyncio.FIRST_COMPLETED)
    if run.done():
        run.result()
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    await kernel.close()
    journal.close()


def _fail(_topic: str, error: Exception) -> None:
    raise error


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1])))
