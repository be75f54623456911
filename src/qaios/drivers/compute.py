"""The computer this node runs on, as a device: Python functions by import path, and command lines.

    compute.call   {call: 'module:function', args: [..], kwargs: {..}}     may run again after a crash
    compute.run    {command: [program, argument, ..]}                      at most once, or explicitly unknown
    NAME           {argument: value, ..}     a function the configuration gives a name of its own, called with these

Both run in killable worker processes (`drivers.pool`), one attempt a worker. Thousands of calls of one shape travel
in one message (`execute_batch`); a call that takes its whole worker down fails alone, found by halving the batch.

*Where modules are found*: in the folders of the argument `path` first, then those of the configuration, then where
the kernel itself looks. Relative folders, and `cwd` of a program, start at the folder the node was started in.
*What a function may return*: plain data, a `Result`, or a dict shaped like one (see `drivers.calls`); artifacts come
back as `{name, media_type, content}` and are stored here. A generator function's yields are emitted as chunks; in a
batch it is only run to its end. numpy arrays become lists.
*Time limits* (`timeout_s`) are in the computer's own time, also where the node's clock is that of a simulated world.

Estimates are running means: of each function and program, the mean duration seen here, published as readings of the
status so that the estimate stays a pure function of it. A mean is published anew only when it moved by a tenth.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np

from qaios.bridge.references import is_reference
from qaios.contracts import Artifacts, Attempt, Device, Driver, Isolation, Site
from qaios.core.errors import DeviceFault, Invalid, QaiError, Refused
from qaios.core.values import (
    ActionSpec,
    Artifact,
    Batch,
    BatchOutcome,
    DeviceSpec,
    DeviceStatus,
    Done,
    Effect,
    Estimate,
    HaltRecipe,
    Never,
    Reading,
    Recall,
    Result,
    Shape,
    SignalHalt,
    Task,
    Unit,
)
from qaios.drivers.ledger import Ledger
from qaios.drivers.once import Once
from qaios.drivers.pool import Pool
from qaios.drivers.worker import ChildDied

CALL = ActionSpec(
    "compute.call",
    "Call a Python function.",
    batched=True,
    parameters={
        "call": "the function, as 'package.module:function'",
        "args": "its positional arguments, a list",
        "kwargs": "its keyword arguments",
        "path": "folders to look for modules in first, a list",
        "timeout_s": "stop it after this many seconds",
    },
    required=("call",),
)
RUN = ActionSpec(
    "compute.run",
    "Run a command line.",
    effect=Effect.EFFECTFUL,
    parameters={
        "command": "program and arguments, a list of strings; no shell is involved",
        "cwd": "the folder to run it in",
        "env": "variables to add to the node's environment",
        "stdin": "text to give it",
        "timeout_s": "stop it after this many seconds",
        "check": "false: an exit code other than 0 is a result, not a failure",
    },
    required=("command",),
)
_TYPES: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    CALL.name: {"call": (str,), "args": (list, tuple), "kwargs": (dict,), "path": (list, tuple),
                "timeout_s": (int, float)},
    RUN.name: {"command": (list, tuple), "cwd": (str,), "env": (dict,), "stdin": (str,), "timeout_s": (int, float),
               "check": (bool,)},
}  # fmt: skip

# Functions of the house that missions call by a name of their own, so that they can be a fallback.
FUNCTIONS: Mapping[str, str] = {"optimize.classical": "qaios.quantum.qubo:solve_classical"}

UNSEEN_S = {CALL.name: 0.05, RUN.name: 0.1}  # a guess, on the long side: the first slice of a long call stays short
SEEN_MAX = 256  # functions and programs whose mean is kept


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig:
    name: str = "cpu"
    processes: int = 0  # workers at a time; 0: one per core
    path: tuple[str, ...] = ()  # folders to look for modules in
    functions: Mapping[str, str] = field(default_factory=lambda: dict(FUNCTIONS))  # action -> 'module:function'


class Compute:
    """The device. Implements `BatchDevice`."""

    def __init__(self, config: ComputeConfig, site: Site) -> None:
        size = config.processes or os.cpu_count() or 1
        self._spec = DeviceSpec(
            name=config.name,
            driver="compute",
            kind="compute",
            actions=(CALL, RUN, *(ActionSpec(name, f"Call {call}.") for name, call in config.functions.items())),
            capacity=size,
            summary=f"This computer, {size} worker processes",
        )
        self._site = site
        self._path = tuple(config.path)
        self._functions = dict(config.functions)
        self._pool = Pool(config.name, size)
        self._once = Once()
        self._ledger = Ledger(Path(site.home) / "devices" / config.name / "ledger")
        self._durations = _Durations()
        self._open = False

    @property
    def spec(self) -> DeviceSpec:
        return self._spec

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._ledger.open)
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._open = False
        self._pool.kill()
        await self._once.close()
        await self._pool.stop()

    def status(self) -> DeviceStatus:
        return self._durations.status

    def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
        """Duration in seconds, with its source in `terms`: the mean seen here, or a guess for what never ran."""
        asked = [self._named(shape.action, shape.form) for shape in shapes]
        return [_estimate(Shape(action, form), status) for action, form in asked]

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        action, arguments = self._named(task.action, task.arguments)
        if fault := _fault(action, arguments):
            raise Refused(fault, hint="See `qai devices -o json` for the arguments of each action.")
        self._admit(attempt)
        body = self._call if action == CALL.name else self._run
        killings = self._pool.killings  # a halt from here on concerns this attempt, whether or not it has a worker
        return await self._once.run(attempt.key, lambda: body(arguments, attempt, killings))

    def _named(self, action: str, arguments: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """A named function is a `compute.call` of it with the task's arguments as keywords."""
        if action not in self._functions:
            return action, arguments
        return CALL.name, {"call": self._functions[action], "kwargs": arguments}

    def _admit(self, attempt: Attempt) -> None:
        if not self._open:
            raise DeviceFault(f"{self._spec.name} is not open")
        self._once.admit(attempt.epoch)

    async def _call(self, arguments: Mapping[str, Any], attempt: Attempt, killings: int) -> Result:
        name = arguments["call"]
        request = {
            "call": name,
            "args": list(arguments.get("args", ())),
            "kwargs": dict(arguments.get("kwargs", {})),
        }
        answer = await self._work(
            "qaios.drivers.calls:call", request, arguments, name, killings, lambda chunk: attempt.emit(_mapping(chunk))
        )
        self._durations.saw(CALL.name, name, answer.pop("duration_s"), 1)
        return await _result(answer, attempt.artifacts)

    async def _run(self, arguments: Mapping[str, Any], attempt: Attempt, killings: int) -> Result:
        command = list(arguments["command"])
        request = {
            "command": command,
            "cwd": arguments.get("cwd"),
            "env": dict(arguments.get("env", {})),
            "stdin": arguments.get("stdin", "").encode(),
        }
        known = await asyncio.to_thread(self._ledger.recall, attempt.key)
        if isinstance(known, Done):  # by a kernel before this one
            return known.result
        await asyncio.to_thread(self._ledger.began, attempt.key, epoch=attempt.epoch)
        began_s = asyncio.get_running_loop().time()
        try:
            answer = await self._work("qaios.drivers.calls:run_program", request, arguments, command[0], killings)
            if answer["exit_code"] != 0 and arguments.get("check", True):
                raise _failed(command[0], answer)
        except QaiError as error:
            await asyncio.to_thread(self._ledger.failed, attempt.key, str(error))
            raise
        self._durations.saw(RUN.name, command[0], asyncio.get_running_loop().time() - began_s, 1)
        result = Result(answer, provenance={"command": command})
        await asyncio.to_thread(self._ledger.done, attempt.key, result)
        return result

    async def _work(
        self, function: str, request: Any, arguments: Mapping[str, Any], name: str, killings: int, on_chunk: Any = None
    ) -> dict[str, Any]:
        """One call of `drivers.calls` in a worker; its death, a halt and the time limit become what they are."""
        limit_s = arguments.get("timeout_s")
        try:
            async with self._pool.borrow(self._folders(arguments)) as worker, asyncio.timeout(limit_s):
                await worker.start()
                if self._pool.killings != killings:  # halted before there was a child to kill
                    raise ChildDied(f"{worker.name} was not given {name}")
                answer: dict[str, Any] = await worker.call(function, request, on_chunk)
                return answer
        except TimeoutError:
            raise DeviceFault(f"{name} did not end within {limit_s} s and was killed", retryable=False) from None
        except Invalid as error:
            raise Refused(f"{name}: {error}", hint=error.hint) from error
        except DeviceFault as error:
            if self._pool.killings != killings:
                raise DeviceFault(f"{self._spec.name} was halted while running {name}") from error
            raise

    def _folders(self, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(os.path.abspath(folder) for folder in (*arguments.get("path", ()), *self._path))  # noqa: PTH100

    async def execute_batch(self, batch: Batch, attempt: Attempt) -> BatchOutcome:
        """Calls only. Each task fails or succeeds by itself; raises `DeviceFault` only when all were stopped."""
        if batch.shape.action != CALL.name:
            raise Refused(f"{self._spec.name} does not take {batch.shape.action} in batches")
        self._admit(attempt)
        killings = self._pool.killings
        columns = batch.arguments or (batch.shape.form,) * len(batch.ids)
        failed = np.zeros(len(columns), np.bool_)
        blobs: list[bytes] = [b""] * len(columns)
        groups: dict[tuple[tuple[str, ...], int], list[int]] = {}
        common = _folders_of(batch.shape.form)
        for index, arguments in enumerate(columns):
            if fault := _call_fault(arguments):
                failed[index], blobs[index] = True, msgspec.msgpack.encode({"refused": fault})
            else:
                alone = index if "timeout_s" in arguments else -1  # a limit is for one call, not for its neighbours
                groups.setdefault((_folders_of(arguments) or common, alone), []).append(index)
        for indices in groups.values():
            await self._call_many(columns, indices, attempt, killings, failed, blobs)
        return BatchOutcome(failed, tuple(blobs))

    async def _call_many(
        self,
        columns: Sequence[Mapping[str, Any]],
        indices: list[int],
        attempt: Attempt,
        killings: int,
        failed: Any,
        blobs: list[bytes],
    ) -> None:
        """Fill `failed` and `blobs` at these indices."""
        calls: dict[str, int] = {}
        request = {
            "which": [calls.setdefault(columns[index]["call"], len(calls)) for index in indices],
            "args": [columns[index].get("args", ()) for index in indices],
            "kwargs": [columns[index].get("kwargs", _NONE) for index in indices],
            "calls": list(calls),
        }
        name = next(iter(calls))
        try:
            answer = await self._work("qaios.drivers.calls:call_many", request, columns[indices[0]], name, killings)
        except (DeviceFault, Refused) as error:
            if self._pool.killings != killings:
                raise
            if len(indices) == 1:
                said = {"refused": str(error)} if isinstance(error, Refused) else str(error)
                failed[indices[0]], blobs[indices[0]] = True, msgspec.msgpack.encode(said)
            elif isinstance(error, ChildDied | Refused):
                # One of them took the worker down, or cannot travel. They may run again, so each half tries alone.
                for half in (indices[: len(indices) // 2], indices[len(indices) // 2 :]):
                    await self._call_many(columns, half, attempt, killings, failed, blobs)
            else:
                raise
            return
        for position in answer["failed"]:
            failed[indices[position]] = True
        for index, blob in zip(indices, answer["blobs"], strict=True):
            blobs[index] = blob
            if _ARTIFACTS in blob and not failed[index]:
                failed[index], blobs[index] = await _stored(blob, attempt.artifacts)
        if len(calls) == 1:
            self._durations.saw(CALL.name, name, answer["duration_s"], len(indices))

    async def halt(self) -> None:
        self._pool.kill()

    def halt_recipes(self) -> Sequence[HaltRecipe]:
        """One signal per living worker; a worker started later is in a later call's answer."""
        kill = getattr(signal, "SIGKILL", signal.SIGTERM)
        return [SignalHalt(worker.pid, kill, worker.started_s) for worker in self._pool.workers if worker.pid]

    async def observe(self) -> Sequence[Reading]:
        now_s = self._site.clock.now_s()
        readings = [
            Reading("compute.busy", float(self._pool.busy), Unit.ONE, now_s),
            Reading("compute.workers", float(len(self._pool.workers)), Unit.ONE, now_s),
        ]
        if hasattr(os, "getloadavg"):
            readings.append(Reading("compute.load_1min", os.getloadavg()[0], Unit.ONE, now_s))
        return readings

    async def recall(self, key: str) -> Recall:
        """Calls leave no trace and may run again: `Never`. Programs are in the ledger."""
        known = self._once.recall(key)
        return known if not isinstance(known, Never) else await asyncio.to_thread(self._ledger.recall, key)


_NONE: Mapping[str, Any] = {}
_ARTIFACTS = msgspec.msgpack.encode("artifacts")  # how the word looks inside a packed result


def _fault(action: str, arguments: Mapping[str, Any]) -> str:
    """What is wrong with the arguments of a task, or "". A reference not yet resolved may stand for anything."""
    types = _TYPES.get(action)
    if types is None:
        return f"this computer does not offer {action}"
    needed = "call" if action == CALL.name else "command"
    if needed not in arguments:
        return f"{action} needs '{needed}'"
    for name, value in arguments.items():
        if name not in types:
            return f"{action} takes no '{name}'; it takes {', '.join(types)}"
        if not isinstance(value, types[name]) and not is_reference(value):
            return f"'{name}' of {action} is a {type(value).__name__}; it should be a {types[name][0].__name__}"
    words = arguments["command"] if action == RUN.name else "-"
    if not words or not all(isinstance(word, str) for word in words):
        return "'command' of compute.run should be a list of strings, with the program first"
    return ""


def _call_fault(arguments: Mapping[str, Any]) -> str:
    """The same for one call of thousands: the usual one is let through at a glance."""
    if len(arguments) == 2 and type(arguments.get("call")) is str and type(arguments.get("args")) in (list, tuple):
        return ""
    return _fault(CALL.name, arguments)


def _folders_of(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(arguments["path"]) if "path" in arguments else ()


def _estimate(shape: Shape, status: DeviceStatus) -> Estimate:
    if fault := _fault(shape.action, shape.form):
        return Estimate(0.0, refusal=fault)
    name = shape.form["call"] if shape.action == CALL.name else shape.form["command"][0]
    mean_s = status.value(f"{shape.action} {name}")
    if mean_s is None:
        return Estimate(UNSEEN_S[shape.action], terms={"guess_s": UNSEEN_S[shape.action]})
    return Estimate(mean_s, terms={"mean_s": mean_s})


class _Durations:
    """Running means by function and program, and the status they are published in."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[int, float, float]] = OrderedDict()  # count, mean, mean as published
        self.status = DeviceStatus()

    def saw(self, action: str, name: str, duration_s: float, count: int) -> None:
        """`count` of them took `duration_s` together. The mean forgets: what is old weighs as 1000 at most."""
        key = f"{action} {name}"
        before, mean_s, published_s = self._seen.pop(key, (0, 0.0, 0.0))
        before = min(before, 1000)
        mean_s = (before * mean_s + duration_s) / (before + count)
        moved = abs(mean_s - published_s) > 0.1 * published_s
        self._seen[key] = (before + count, mean_s, mean_s if moved else published_s)
        while len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)
        if moved:
            readings = tuple(Reading(name, mean_s, Unit.SECOND, 0.0) for name, (_, _, mean_s) in self._seen.items())
            self.status = DeviceStatus(self.status.version + 1, readings=readings)


def _mapping(chunk: Any) -> Mapping[str, Any]:
    return chunk if isinstance(chunk, dict) else {"chunk": chunk}


def _failed(program: str, answer: Mapping[str, Any]) -> DeviceFault:
    code = answer["exit_code"]
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    last = "".join(answer["stderr"].strip().splitlines()[-1:])
    return DeviceFault(f"{program} {how}{': ' if last else ''}{last}", retryable=False)


async def _result(answer: dict[str, Any], artifacts: Artifacts) -> Result:
    """A result in plain data as a `Result`, its new artifacts stored. Raises `DeviceFault` where it is misshapen."""
    kept: list[Artifact | dict[str, Any]] = []
    try:
        for entry in answer.get("artifacts", ()):
            if "content" not in entry:
                kept.append(entry)
                continue
            content = entry["content"].encode() if isinstance(entry["content"], str) else entry["content"]
            media_type = entry.get("media_type", "application/octet-stream")
            # In a thread: storing waits for the disk.
            kept.append(await asyncio.to_thread(artifacts.put, entry["name"], content, media_type))
        return msgspec.convert({**answer, "artifacts": [msgspec.to_builtins(entry) for entry in kept]}, Result)
    except (msgspec.ValidationError, KeyError, TypeError, AttributeError) as error:
        raise DeviceFault(
            f"the function returned a misshapen result: {type(error).__name__}: {error}",
            retryable=False,
            hint="It has value, artifacts [{name, media_type, content}], provenance and spawn [{name, action, …}].",
        ) from error


async def _stored(blob: bytes, artifacts: Artifacts) -> tuple[bool, bytes]:
    """One packed result of a batch with its artifacts stored: whether that failed, and the new blob."""
    try:
        return False, msgspec.msgpack.encode(await _result(msgspec.msgpack.decode(blob), artifacts))
    except DeviceFault as error:
        return True, msgspec.msgpack.encode(f"{error} {error.hint}")


def _devices(config: ComputeConfig, site: Site) -> Sequence[Device]:
    return [Compute(config, site)]


DRIVER: Driver[ComputeConfig] = Driver(
    name="compute",
    summary="Python functions and command lines on this computer",
    config=ComputeConfig,
    devices=_devices,
    isolation=Isolation.PROCESS,
)
