"""What the kernel promises, as scripts one can read: each file in `kernel/` is a story and its expected states.

A script is a list of commands; under each command that changes something stand the states of all tasks that changed,
as the kernel has them afterwards. `QAIOS_REWRITE=1 pytest tests/scenarios/test_kernel_scripts.py` writes what it sees
into the files, to be read before it is committed. Commands:

    device NAME [capacity=N] [action=A[:effectful|:replayable|:batched]]... [slow]   a device; `slow` scores worse
    planner ACTION                                    repairs tasks of ACTION: what is left becomes `NAME-rest`
    boot                                              start the kernel with these devices
    submit TASK [TASK...]                             a mission of these tasks, each written as
                                                      name=action[<need,need][@device][|fallback][!priority][~retries]
    finish TASK [spawn=NAME:ACTION[,...]]             its attempt brings a result
    chunk TASK TEXT                                   its attempt emits a part of the result
    fail TASK [refused|fatal|unknown|lost] REASON     its attempt fails
    lose DEVICE                                       the device is gone, what it does fails as lost
    cancel TASK|all / resolve TASK happened|never / halt DEVICE / release DEVICE
    tick SECONDS                                      time passes
    crash                                             the kernel dies and boots again on its journal
    why TASK / history TASK                           shown as text
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from qaios.contracts import Attempt, Berth, Planner
from qaios.core.errors import DeviceFault, DeviceLost, OutcomeUnknown, QaiError, Refused
from qaios.core.values import (
    ActionSpec,
    Batch,
    BatchOutcome,
    Effect,
    Estimate,
    Never,
    Recall,
    Result,
    Task,
    TaskSpec,
    TaskState,
)
from qaios.testing.clock import FakeClock
from qaios.testing.memory import MemoryJournal
from qaios.testing.scripted import ScriptedDevice
from tests.kernel.bench import Bench

SCRIPTS = sorted((Path(__file__).parent / "kernel").glob("*.txt"))
ERRORS: Mapping[str, Callable[[str], QaiError]] = {
    "refused": Refused, "unknown": OutcomeUnknown, "lost": DeviceLost,
    "fatal": lambda reason: DeviceFault(reason, retryable=False),
}  # fmt: skip


class Puppet(ScriptedDevice):
    """Every attempt waits until the script says what becomes of it."""

    def __init__(self, clock: FakeClock, name: str, capacity: int, actions: Sequence[ActionSpec], slow: bool) -> None:
        estimate = Estimate(duration_s=100.0 if slow else 0.1)
        super().__init__(clock, name=name, capacity=capacity, actions=actions, estimate=estimate)
        self.slow = slow
        self.attempts: dict[str, tuple[Attempt, asyncio.Future[Result]]] = {}

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        return await self._wait(task.name, attempt)

    async def execute_batch(self, batch: Batch, attempt: Attempt) -> BatchOutcome:
        await self._wait(f"batch of {len(batch.ids)}", attempt)
        raise AssertionError("scripts end tasks one by one")

    async def _wait(self, name: str, attempt: Attempt) -> Result:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.attempts[name] = (attempt, future)
        try:
            return await future
        finally:
            self.attempts.pop(name, None)

    def lose(self) -> None:
        for _, future in self.attempts.values():
            future.set_exception(DeviceLost(f"{self.spec.name} is gone"))

    async def recall(self, key: str) -> Recall:
        return Never()


class Rest:
    """Plans what is left: all chunks are done, the rest is one task."""

    name: ClassVar[str] = "rest"
    actions: ClassVar[frozenset[str]] = frozenset()

    async def repair(
        self, lost: TaskSpec, chunks: Sequence[Mapping[str, Any]], fleet: Sequence[Berth], random: Random
    ) -> Sequence[TaskSpec]:
        if not any(not berth.unusable for berth in fleet):
            raise Refused("nobody is left")
        done = [chunk["part"] for chunk in chunks]
        return [TaskSpec(name=f"{lost.name}-rest", action=lost.action, arguments={"done": done})]


class Stage:
    """Plays one script and writes what it sees."""

    def __init__(self) -> None:
        self.clock, self.journal = FakeClock(), MemoryJournal()
        self.devices: dict[str, Puppet] = {}
        self.planners: list[Planner] = []
        self.node: Bench | None = None
        self.seen: dict[str, str] = {}

    @property
    def there(self) -> Bench:
        assert self.node is not None, "the script does not boot"
        return self.node

    async def play(self, line: str) -> list[str]:
        command, *words = line.split()
        said = await getattr(self, f"do_{command}")(*words) or []
        return [*said, *await self._changes()] if self.node else []

    async def _changes(self) -> list[str]:
        await self.clock.settle()
        node, machine, lines = self.there, self.there.kernel.machine, []
        for task in range(machine.count):
            name, state = machine.name(task), TaskState(machine.state[task])
            text = state.name
            if state in (TaskState.RUNNING, TaskState.CANCELLING):
                text += f" on {machine.device_name(task)}"
            if task in machine.fell_back:
                text += f" (fell back from {machine.fell_back[task]})"
            if state.ended or state is TaskState.UNKNOWN:
                reason = machine.reasons.get(task, "")
                text += f": {reason}" if reason else ""
            if self.seen.get(name) != text:
                lines.append(f"    {name}: {text}")
                self.seen[name] = text
        for record in machine.missions:
            text = str(record.state)
            if self.seen.get(f"mission {record.id}") != text:
                lines.append(f"    mission {record.id}: {text}")
                self.seen[f"mission {record.id}"] = text
        assert node.loop is None or not node.loop.done(), "the kernel stopped"
        return lines

    async def do_device(self, name: str, *words: str) -> None:
        actions, capacity = [], 1
        for word in words:
            key, _, value = word.partition("=")
            if key == "capacity":
                capacity = int(value)
            elif key == "action":
                action, _, kind = value.partition(":")
                effect = Effect.EFFECTFUL if kind == "effectful" else Effect.REPLAYABLE
                actions.append(ActionSpec(action, action, effect=effect, batched=kind == "batched"))
        self.devices[name] = Puppet(self.clock, name, capacity, actions, "slow" in words)

    async def do_planner(self, action: str) -> None:
        self.planners.append(type("Rest", (Rest,), {"actions": frozenset({action})})())

    async def do_boot(self) -> None:
        self.node = Bench(self.clock, self.journal, list(self.devices.values()), self.planners)
        await self.node.boot()
        await self.clock.advance(0.1)

    async def do_submit(self, *words: str) -> None:
        await self.there.submit(*map(_task, words))
        await self.clock.advance(0.1)

    async def do_finish(self, task: str, spawn: str = "") -> None:
        specs = [TaskSpec(name=pair.partition(":")[0], action=pair.partition(":")[2])
                 for pair in spawn.removeprefix("spawn=").split(",") if pair]  # fmt: skip
        self._attempt(task)[1].set_result(Result(task, spawn=tuple(specs)))

    async def do_chunk(self, task: str, part: str) -> None:
        self._attempt(task)[0].emit({"part": part})

    async def do_fail(self, task: str, *words: str) -> None:
        kind = ERRORS.get(words[0])
        reason = " ".join(words[1:] if kind else words)
        error: QaiError = kind(reason) if kind else DeviceFault(reason)
        self._attempt(task)[1].set_exception(error)

    async def do_lose(self, device: str) -> None:
        self.devices[device].lose()
        await self.there.kernel.fleet.lost(device, "no longer heard")

    async def do_cancel(self, task: str) -> None:
        await self.there.kernel.cancel("m-1", None if task == "all" else task, by="ada")

    async def do_resolve(self, task: str, word: str) -> None:
        await self.there.kernel.resolve(self.there.id(task), happened=word == "happened", by="ada")

    async def do_halt(self, device: str) -> None:
        await self.there.kernel.halt([device], by="ada")

    async def do_release(self, device: str) -> None:
        await self.there.kernel.fleet.release(device)

    async def do_tick(self, seconds: str) -> None:
        await self.clock.advance(float(seconds))

    async def do_crash(self) -> None:
        await self.there.crash()
        self.journal = MemoryJournal(self.journal.blocks)
        for name, old in self.devices.items():
            spec = old.spec
            self.devices[name] = Puppet(self.clock, name, spec.capacity, spec.actions, old.slow)
        await self.do_boot()

    async def do_why(self, task: str) -> list[str]:
        decision = self.there.kernel.waiting.get(self.there.id(task))
        if decision is None:
            return [f"    {task} waits for no device"]
        known = [f"{one.device} (could)" for one in decision.candidates]
        return [f"    {task}: " + "; ".join([*known, *(f"{one.device}: {one.reason}" for one in decision.refusals)])]

    async def do_history(self, task: str) -> list[str]:
        return [f"    {line}" for line in self.there.history(task)]

    def _attempt(self, task: str) -> tuple[Attempt, asyncio.Future[Result]]:
        return next(device.attempts[task] for device in self.devices.values() if task in device.attempts)


def _task(word: str) -> TaskSpec:
    """name=action[<need,need][@device][|fallback][!priority][~retries]"""
    parts: dict[str, str] = {}
    for mark in "~!|@<":
        word, _, parts[mark] = word.partition(mark)
    name, _, action = word.partition("=")
    return TaskSpec(
        name=name, action=action, needs=tuple(filter(None, parts["<"].split(","))), device=parts["@"],
        fallback=parts["|"], priority=int(parts["!"] or 100), retries=int(parts["~"] or 0),
    )  # fmt: skip


async def played(script: str) -> str:
    """The script with what the kernel does now under each command."""
    stage, shown = Stage(), []
    for line in script.splitlines():
        if line.startswith("    "):
            continue  # what was seen before
        shown.append(line)
        if line and not line.startswith("#"):
            shown += await stage.play(line)
    await stage.there.close()
    return "\n".join(shown) + "\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_kernel_does_what_the_script_says(script: Path) -> None:
    found = asyncio.run(played(script.read_text()))
    if os.environ.get("QAIOS_REWRITE"):
        script.write_text(found)
    assert found == script.read_text(), "the kernel does something else now; QAIOS_REWRITE=1 writes it down"


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 8
