"""The kernel: one machine, one journal, one fleet, and the loop between them.

    submit ──▶ post ──▶ machine.apply (validates) ──▶ journal.append (durable) ──▶ effects
                 ▲                                                                  │ ready, stop, repair
                 └── finished, failed, cancelled ◀── dispatch ◀── place (policy) ◀──┘

Doors call `submit`, `cancel`, `resolve`, `halt`; the composition root calls `recover` once and then keeps `run`
alive. Every change goes through `post`, in one order: apply, append, perform. If appending fails after applying,
nothing more may happen in this process: `JournalBroken` leaves `run`, and the next boot replays.
"""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import msgspec
import numpy as np

from qaios.contracts import Artifacts, Bus, Clock, Device, Journal, Placements, Planner, Policy, Ready
from qaios.core import events as ev
from qaios.core.errors import DeviceLost, IllegalEvent, JournalBroken, NotFound, OutcomeUnknown, QaiError, Refused
from qaios.core.machine import Effects, Machine
from qaios.core.values import (
    Batch,
    DeviceState,
    Done,
    Effect,
    Estimate,
    Never,
    Result,
    Rung,
    Running,
    Shape,
    Task,
    TaskSpec,
    TaskState,
)
from qaios.kernel.columns import columns_of
from qaios.kernel.dispatch import Dispatch
from qaios.kernel.fleet import Fleet
from qaios.kernel.ladder import Failure, backoff_s, next_rung
from qaios.kernel.references import references, resolve

EVENTS_TOPIC = "events"  # (sequence, event) pairs, durable ones only
PROGRESS_TOPIC = "progress"  # (task id, fraction, note)
_TICK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMission:
    """What a door asks the kernel to run, checked by the door."""

    name: str
    tasks: Sequence[TaskSpec]
    goal: str = ""
    owner: str = ""
    key: str = ""
    seed: int = 0
    deadline_s: float | None = None  # after submission
    document: bytes = b""


class Kernel:
    """One per node. All methods are called from one event loop."""

    name: ClassVar[str] = "mission"  # as an engine

    def __init__(
        self,
        *,
        journal: Journal,
        devices: Iterable[Device],
        policy: Policy,
        clock: Clock,
        bus: Bus,
        artifacts: Artifacts,
        planners: Sequence[Planner] = (),
        node: str = "node",
        version: str = "",
    ) -> None:
        self.machine = Machine()
        self.fleet = Fleet(devices, clock, self._device_changed)
        self.sequence = 0
        self.progress: dict[int, tuple[float, str]] = {}
        self.waiting: dict[int, Any] = {}  # task -> the decision that says why it still waits
        self._waited: dict[int, dict[str, None]] = defaultdict(dict)
        self._journal, self._policy, self._clock, self._bus = journal, policy, clock, bus
        self._planners = planners
        self._node, self._version = node, version
        self._dispatch = Dispatch(self, clock, artifacts)
        self._dispatch.on_crash = self._crashed
        self._ready: dict[int, float] = {}  # task -> not before, in insertion order
        self._wake = asyncio.Event()
        self._broken: BaseException | None = None
        self._asides: set[asyncio.Task[None]] = set()
        self._ended: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    # ── the one path of change ───────────────────────────────────────────────

    async def post(self, *events: ev.Event) -> None:
        """Apply, append, perform. Raises `IllegalEvent` for the first event that does not fit; those before stand.

        Cancelling the caller does not undo what was applied: appending and performing go on without it.
        """
        if self._broken is not None:
            raise JournalBroken("the kernel has stopped: the journal could not be written") from self._broken
        accepted: list[tuple[ev.Event, Effects]] = []
        refusal: IllegalEvent | None = None
        for event in events:
            try:
                accepted.append((event, self.machine.apply(event)))
            except IllegalEvent as error:
                refusal = error
                break
        if accepted:
            await asyncio.shield(asyncio.ensure_future(self._append(accepted)))
        if refusal is not None:
            raise refusal

    async def _append(self, accepted: Sequence[tuple[ev.Event, Effects]]) -> None:
        batch = [event for event, _ in accepted]
        try:
            self.sequence = max(self.sequence, await self._journal.append(batch))
        except JournalBroken as error:
            # The machine is now ahead of what is durable. Nothing may be performed; the next boot replays.
            self._crashed(error)
            raise
        self._bus.publish(EVENTS_TOPIC, batch)
        for _, effects in accepted:
            self._perform(effects)

    def _perform(self, effects: Effects) -> None:
        for task in (int(one) for one in effects.ready):
            tries = int(self.machine.tries[task])
            wait_s = backoff_s(tries) if tries and self.machine.history.get(task) else 0.0
            self._ready[task] = self._clock.now_s() + wait_s
        for task in (int(one) for one in effects.ended):
            self._ready.pop(task, None)
            self.waiting.pop(task, None)
            self.progress.pop(task, None)
        if len(effects.stop):
            for task in self._dispatch.cancel(effects.stop):
                # Placed but not yet started, or its carrier has just ended: there is nothing left to stop.
                self._aside(self._never_started(task))
        for task in (int(one) for one in effects.repair):
            self._aside(self._repair(task))
        for mission in effects.missions:
            self._aside(self._tell_ended(mission))
        if len(effects.ready):
            self._wake.set()

    def _crashed(self, error: BaseException) -> None:
        self._broken = self._broken or error
        self._wake.set()

    def _aside(self, work: Any) -> None:
        """Work that must not hold up the loop; its failure is the kernel's."""
        aside = asyncio.get_running_loop().create_task(work)
        self._asides.add(aside)

        def over(done: asyncio.Task[None]) -> None:
            self._asides.discard(done)
            if not done.cancelled() and (error := done.exception()) is not None:
                self._crashed(error)

        aside.add_done_callback(over)

    # ── what doors ask ───────────────────────────────────────────────────────

    async def submit(self, new: NewMission) -> str:
        """Return the mission's id once it is durable. The same key again is the same mission."""
        if new.key and new.key in self.machine.keys:
            return self.machine.keys[new.key]
        now_s = self._clock.now_s()
        mission = f"{_slug(new.name)}-{len(self.machine.missions) + 1}"
        shapes, tasks = columns_of(new.tasks, now_s)
        await self.post(
            ev.MissionSubmitted(
                at_s=now_s,
                mission=mission,
                name=new.name,
                goal=new.goal,
                owner=new.owner,
                key=new.key,
                seed=new.seed,
                deadline_s=None if new.deadline_s is None else now_s + new.deadline_s,
                document=new.document,
                shapes=shapes,
                tasks=tasks,
            )
        )
        return mission

    async def cancel(self, mission: str, task: str | None, by: str) -> None:
        record = self.machine.record(mission)
        ids = self.machine.tasks_of(record) if task is None else ev.ids_of(self.task_id(mission, task))
        live = ids[self.machine.state[ids] < TaskState.DONE]
        if len(live):
            await self.post(ev.CancelAsked(at_s=self._clock.now_s(), ids=live, by=by))

    def task_id(self, mission: str, task: str) -> int:
        try:
            return self.machine.record(mission).names[task]
        except KeyError:
            raise NotFound(f"mission {mission} has no task {task}") from None

    async def resolve(self, task: int, *, happened: bool, by: str) -> None:
        """A person or a planner says what became of an unknown effect."""
        await self.post(ev.UnknownResolved(at_s=self._clock.now_s(), ids=ev.ids_of(task), happened=happened, by=by))

    async def _tell_ended(self, mission: str) -> None:
        record = self.machine.record(mission)
        if record.ended_s is None or record.told:
            return
        failed = [task for task in self.machine.in_state(TaskState.FAILED).tolist() if task in self.machine.reasons]
        own = [task for task in failed if self.machine.mission[task] == record.index]
        reason = f"{self.machine.name(own[0])}: {self.machine.reasons[own[0]]}" if own else ""
        await self.post(ev.MissionEnded(at_s=record.ended_s, mission=mission, state=record.state, reason=reason))
        self._ended[mission].set()

    async def ended(self, mission: str) -> None:
        """Return when no task of the mission can go on."""
        record = self.machine.record(mission)
        while not record.told:
            self._ended[mission].clear()
            await self._ended[mission].wait()

    async def halt(self, names: Sequence[str] | None, by: str) -> Sequence[str]:
        """Stop first, write it down afterwards."""
        chosen = list(self.fleet.berths) if names is None else list(names)
        await self.fleet.halt(chosen)
        await self.post(ev.Halted(at_s=self._clock.now_s(), devices=tuple(chosen), by=by))
        return chosen

    def plan(self, new: NewMission) -> tuple[Placements, tuple[Shape, ...]]:
        """Where each task would go if all were ready now; pure, nothing is submitted."""
        shapes, columns = columns_of(new.tasks, 0.0)
        count = len(columns.shape)
        ready = Ready(
            range(count), columns.shape.tolist(), columns.priority.tolist(), columns.deadline_s.tolist(), [0.0] * count,
            {}, columns.device, shapes,
        )  # fmt: skip

        def estimate(device: str, shape: int) -> Estimate:
            return self.fleet[device].device.estimate([shapes[shape]], self.fleet[device].device.status())[0]

        # Closed devices count as free: they are opened when work asks for them.
        fleet = [
            replace(berth, free=count, unusable="" if berth.unusable in ("is closed", "is opening") else berth.unusable)
            for berth in self.fleet.view()
        ]
        return self._policy.place(ready, fleet, estimate, 0.0), shapes

    # ── life ─────────────────────────────────────────────────────────────────

    async def recover(self) -> None:
        """Replay the journal, take a new epoch, and find out what became of attempts that were under way."""
        for sequence, events in self._journal.read():
            for event in events:
                self.machine.apply(event)
            self.sequence = sequence
        before = self.machine.in_state(TaskState.RUNNING, TaskState.CANCELLING)
        node = self.machine.node or self._node
        now_s = self._clock.now_s()
        await self.post(ev.KernelBooted(at_s=now_s, epoch=self.machine.epoch + 1, node=node, version=self._version))
        for task in (int(one) for one in self.machine.in_state(TaskState.READY)):
            self._ready[task] = now_s
        for task in (int(one) for one in self.machine.in_state(TaskState.REPAIRING)):
            self._aside(self._repair(task))
        for record in self.machine.missions:
            if record.ended_s is not None and not record.told:
                self._aside(self._tell_ended(record.id))
        replayable = before[~self.machine.effectful[before]]
        if len(replayable):
            await self.post(ev.AttemptsLost(at_s=now_s, ids=replayable, reason="the kernel died; safe to run again"))
        for task in (int(one) for one in before[self.machine.effectful[before]]):
            self._aside(self._recall(task))
        self._wake.set()

    async def run(self, ready: Any) -> None:
        """The loop, until cancelled. Raises what broke the kernel."""
        ready()
        self._aside(self.fleet.watch())
        while self._broken is None:
            await self._wait()
            await self._cycle()
        raise self._broken

    async def close(self) -> None:
        for aside in tuple(self._asides):
            aside.cancel()
        await self._dispatch.close()
        await self.fleet.close()

    async def _wait(self) -> None:
        """Until there may be something to place, or a second has passed while something waits."""
        loop = asyncio.get_running_loop()
        waits: list[asyncio.Task[Any]] = [
            loop.create_task(self._wake.wait()),
            loop.create_task(self.fleet.changed.wait()),
        ]
        if any(record.ended_s is None for record in self.machine.missions):
            due_s = min(self._ready.values(), default=0.0) - self._clock.now_s()
            waits.append(loop.create_task(self._clock.sleep(min(_TICK_S, due_s) if due_s > 0 else _TICK_S)))
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        for wait in done:
            wait.result()
        self._wake.clear()
        self.fleet.changed.clear()

    async def _cycle(self) -> None:
        """One placement cycle."""
        await self._note_deadlines()
        now_s = self._clock.now_s()
        due = [task for task, not_before_s in self._ready.items() if not_before_s <= now_s]
        if not due:
            return
        actions = {self.machine.shapes[self.machine.shape[task]].action for task in due}
        self.fleet.open_soon(self.fleet.wanted(actions))
        shapes = {int(self.machine.shape[task]) for task in due}
        await self.fleet.prepare([(shape, self.machine.shapes[shape]) for shape in sorted(shapes)])
        # No await from here to the placement's apply: what the policy saw is what is true.
        due = [task for task in due if task in self._ready]
        now_s = self._clock.now_s()
        placements = self._place(due, now_s)
        await self._record(placements, now_s)

    def _place(self, due: Sequence[int], now_s: float) -> Placements:
        machine = self.machine
        ready = Ready(
            due,
            [int(machine.shape[task]) for task in due],
            [int(machine.priority[task]) for task in due],
            [float(machine.deadline_s[task]) for task in due],
            [float(machine.ready_s[task]) for task in due],
            machine.excluded,
            machine.pinned,
            machine.shapes,
        )

        def estimate(device: str, shape: int) -> Estimate:
            return self.fleet.estimate(device, shape, machine.shapes[shape])

        return self._policy.place(ready, self.fleet.view(), estimate, now_s)

    async def _record(self, placements: Placements, now_s: float) -> None:
        for task, decision in placements.waiting.items():
            self._note_wait(task, placements.decisions[decision])
        events: list[ev.Event] = []
        if placements.placed:
            events.append(self._placed_event(placements, now_s))
        for task, decision in placements.impossible.items():
            refusals = placements.decisions[decision].refusals
            why = "; ".join(f"{one.device}: {one.reason}" for one in refusals) or "no device offers it"
            action = self._action(task)
            events.append(
                ev.TasksRerouted(
                    at_s=now_s,
                    ids=ev.ids_of(task),
                    reason=f"no device of this fleet can do {action}: {why}",
                    fallback=task in self.machine.fallback,
                )
            )
            self._ready.pop(task)
        if not events:
            return
        for placement in placements.placed:
            self._ready.pop(placement.task)
            self.waiting.pop(placement.task, None)
        groups = self._groups(placements)
        for (device_name, _), ids in groups.items():
            shape = int(self.machine.shape[ids[0]])
            estimate = self.fleet.estimate(device_name, shape, self.machine.shapes[shape])
            self.fleet.hold(device_name, estimate.duration_s * len(ids))
        await self.post(*events)
        for (device_name, _), ids in groups.items():
            self._start(device_name, np.array(ids, np.int64))

    def _placed_event(self, placements: Placements, now_s: float) -> ev.TasksPlaced:
        devices = sorted({placement.device for placement in placements.placed})
        index = {name: position for position, name in enumerate(devices)}
        decisions: list[Any] = []
        seen: dict[tuple[int, tuple[str, ...]], int] = {}
        column = []
        for placement in placements.placed:
            waited = tuple(self._waited.pop(placement.task, ()))
            key = (placement.decision, waited)
            if key not in seen:
                seen[key] = len(decisions)
                decision = placements.decisions[placement.decision]
                decisions.append(msgspec.structs.replace(decision, waited_for=waited))
            column.append(seen[key])
        effectful = []
        for placement in placements.placed:
            action = self.fleet[placement.device].device.spec.action(self._action(placement.task))
            effectful.append(action is not None and action.effect is Effect.EFFECTFUL)
        return ev.TasksPlaced(
            at_s=now_s,
            ids=np.array([placement.task for placement in placements.placed], np.int64),
            devices=tuple(devices),
            device=np.array([index[placement.device] for placement in placements.placed], np.uint16),
            decisions=tuple(decisions),
            decision=np.array(column, np.uint32),
            effectful=np.array(effectful, np.bool_),
            epoch=self.machine.epoch,
        )

    def _groups(self, placements: Placements) -> dict[tuple[str, Any], list[int]]:
        """What travels together: batched tasks of one shape and mission per device, everything else alone."""
        groups: dict[tuple[str, Any], list[int]] = {}
        for placement in placements.placed:
            action = self.fleet[placement.device].device.spec.action(self._action(placement.task))
            alone: Any = ("task", placement.task)
            if action is not None and action.batched:
                alone = (int(self.machine.mission[placement.task]), int(self.machine.shape[placement.task]))
            groups.setdefault((placement.device, alone), []).append(placement.task)
        return groups

    def _note_wait(self, task: int, decision: Any) -> None:
        """Remember, in words, what stood between a ready task and its device."""
        self.waiting[task] = decision
        if len(self._waited[task]) >= 8:
            return
        for candidate in decision.candidates:
            for other in self._dispatch.running_on(candidate.device)[:2]:
                text = f"{candidate.device}, busy with {self.machine.name(other)}"
                self._waited[task][f"{text} (priority {int(self.machine.priority[other])})"] = None
        for refusal in decision.refusals:
            if self.fleet[refusal.device].opening is not None:
                self._waited[task][f"{refusal.device}, which was opening"] = None
            elif refusal.reason.startswith("is "):
                self._waited[task][f"{refusal.device}, which {refusal.reason}"] = None

    async def _note_deadlines(self) -> None:
        now_s = self._clock.now_s()
        machine = self.machine
        open_ = np.flatnonzero(
            (machine.state[: machine.count] < TaskState.DONE) & (machine.deadline_s[: machine.count] < now_s)
        )
        late = np.array([task for task in open_.tolist() if task not in machine.late], np.int64)
        if len(late):
            await self.post(ev.DeadlineMissed(at_s=now_s, ids=late))

    # ── attempts ─────────────────────────────────────────────────────────────

    def _start(self, name: str, ids: ev.Ids) -> None:
        live = ids[self.machine.state[ids] == TaskState.RUNNING]
        if not len(live):
            # Cancelled while the placement became durable: confirm it, the device never heard of them.
            self.fleet.free(name)
            return
        device, first = self.fleet[name].device, int(live[0])
        record = self.machine.missions[self.machine.mission[first]]
        attempt = self._dispatch.attempt(first, self.machine.key(first), self.machine.epoch, record.seed)
        if len(live) > 1:
            shape = self.machine.shapes[self.machine.shape[first]]
            try:
                rows = tuple(self._arguments(int(task)) for task in live)
            except QaiError as error:
                self.fleet.free(name)
                self._aside(self.failed(name, live, error))
                return
            self._dispatch.start_batch(device, Batch(live, record.id, shape, rows), attempt)
            return
        try:
            task = self._task(first)
        except QaiError as error:
            self.fleet.free(name)
            self._aside(self.failed(name, live, error))
            return
        self._dispatch.start(device, task, attempt)

    def _task(self, task: int) -> Task:
        machine = self.machine
        shape = machine.shapes[machine.shape[task]]
        deadline_s = float(machine.deadline_s[task])
        return Task(
            id=task,
            mission=machine.missions[machine.mission[task]].id,
            name=machine.name(task),
            action=shape.action,
            arguments=self._arguments(task),
            mode=shape.mode,
            deadline_s=None if np.isinf(deadline_s) else deadline_s,
        )

    def _arguments(self, task: int) -> Mapping[str, Any]:
        """With references replaced by what they refer to."""
        machine = self.machine
        written = machine.arguments(task)
        if next(references(written), None) is None:
            return written
        names = machine.missions[machine.mission[task]].names

        def value(other: int) -> Any:
            result = machine.result(other)
            return None if result is None else result.value

        def lookup(name: str) -> Any:
            return value(names[name])

        def spawned(name: str) -> Sequence[Any]:
            below, found = [names[name]], []
            while below:
                below = [child for parent in below for child in machine.children.get(parent, ())]
                found += [child for child in below if machine.state[child] == TaskState.DONE]
            return [value(child) for child in sorted(found, key=machine.name)]

        resolved: Mapping[str, Any] = resolve(written, lookup, spawned)
        return resolved

    async def finished(self, device: str, ids: ev.Ids, results: ev.Blobs) -> None:
        await self.post(ev.TasksFinished(at_s=self._clock.now_s(), ids=ids, results=results))

    async def spawned(self, device: str, task: int, result: Result) -> None:
        await self._add(task, result.spawn, repairs=False, replan_s=0.0)

    async def failed(self, device: str, ids: ev.Ids, error: QaiError) -> None:
        now_s = self._clock.now_s()
        cancelling = ids[self.machine.state[ids] == TaskState.CANCELLING]
        if len(cancelling):
            await self.post(ev.TasksCancelled(at_s=now_s, ids=cancelling))
        ids = ids[self.machine.state[ids] == TaskState.RUNNING]
        if not len(ids):
            return
        if isinstance(error, OutcomeUnknown):
            await self.post(ev.AttemptsUnknown(at_s=now_s, ids=ids, device=device, reason=str(error)))
            return
        lost = isinstance(error, DeviceLost)
        if lost:
            await self.fleet.lost(device, str(error))
        rungs: dict[Rung, list[int]] = defaultdict(list)
        for task in (int(one) for one in ids):
            rungs[self._rung(task, device, error)].append(task)
        silent_s = getattr(error, "silent_s", None)
        await self.post(
            *(
                ev.AttemptsFailed(
                    at_s=now_s, ids=ev.ids_of(*tasks), device=device, reason=str(error), rung=rung,
                    lost_s=silent_s if lost else None,
                )
                for rung, tasks in rungs.items()
            )
        )  # fmt: skip

    def _rung(self, task: int, device: str, error: QaiError) -> Rung:
        machine, shape = self.machine, self.machine.shapes[self.machine.shape[task]]
        excluded = machine.excluded.get(task, frozenset()) | {device}
        pinned = machine.pinned.get(task, "")
        elsewhere = not pinned and any(
            berth.spec.action(shape.action) and berth.spec.name not in excluded and not berth.unusable
            for berth in self.fleet.view()
        )
        return next_rung(
            Failure(
                refused=isinstance(error, Refused),
                lost=isinstance(error, DeviceLost),
                retryable=getattr(error, "retryable", False),
                tries=int(machine.tries[task]),
                retries=int(machine.retries[task]),
                elsewhere=elsewhere,
                fallback=task in machine.fallback,
                repairable=any(shape.action in planner.actions for planner in self._planners),
            )
        )

    async def cancelled(self, device: str, ids: ev.Ids) -> None:
        asked = ids[self.machine.state[ids] == TaskState.CANCELLING]
        if len(asked):
            await self.post(ev.TasksCancelled(at_s=self._clock.now_s(), ids=asked))
        rest = ids[self.machine.state[ids] == TaskState.RUNNING]
        if len(rest):
            await self.failed(device, rest, Refused("the attempt was cancelled by its device"))

    async def _never_started(self, task: int) -> None:
        if self.machine.state[task] == TaskState.CANCELLING:
            await self.post(ev.TasksCancelled(at_s=self._clock.now_s(), ids=ev.ids_of(task)))

    async def emitted(self, task: int, chunk: bytes) -> None:
        await self.post(ev.ChunkEmitted(at_s=self._clock.now_s(), id=task, chunk=chunk))

    def progressed(self, task: int, fraction: float, note: str) -> None:
        self.progress[task] = (fraction, note)
        self._bus.publish(PROGRESS_TOPIC, [(task, fraction, note)])

    def freed(self, device: str) -> None:
        self.fleet.free(device)

    # ── what recovery and repair ask ─────────────────────────────────────────

    async def _recall(self, task: int) -> None:
        """After a crash: ask the device what became of an effect, before anything else happens to it."""
        name = self.machine.device_name(task)
        ids = ev.ids_of(task)
        if name not in self.fleet.berths:
            await self._unknown(ids, name, "this node no longer has the device it was given to")
            return
        await self.fleet.open([name])
        berth = self.fleet[name]
        if not berth.usable:
            error = DeviceLost(f"after the kernel's restart {name} {berth.reason or berth.state}")
            await self.failed(name, ids, error)
            return
        answer = await berth.device.recall(self.machine.key(task))
        now_s = self._clock.now_s()
        if isinstance(answer, Done):
            blob = msgspec.msgpack.encode(msgspec.structs.replace(answer.result, spawn=()))
            if answer.result.spawn:
                await self.spawned(name, task, answer.result)
            await self.post(ev.TasksFinished(at_s=now_s, ids=ids, results=ev.Blobs.of([blob])))
        elif isinstance(answer, Never):
            await self.post(ev.AttemptsLost(at_s=now_s, ids=ids, reason="the kernel died; the device had never begun"))
        elif isinstance(answer, Running):
            self.fleet.hold(name)
            self._start_again(name, task)
        else:
            await self._unknown(ids, name, answer.reason or "the device cannot say")

    def _start_again(self, name: str, task: int) -> None:
        """The same key joins the run that the device already has."""
        record = self.machine.missions[self.machine.mission[task]]
        attempt = self._dispatch.attempt(task, self.machine.key(task), self.machine.epoch, record.seed)
        self._dispatch.start(self.fleet[name].device, self._task(task), attempt)
        if self.machine.state[task] == TaskState.CANCELLING:
            self._dispatch.cancel(ev.ids_of(task))

    async def _unknown(self, ids: ev.Ids, name: str, reason: str) -> None:
        await self.post(ev.AttemptsUnknown(at_s=self._clock.now_s(), ids=ids, device=name, reason=reason))

    async def _repair(self, task: int) -> None:
        machine, shape = self.machine, self.machine.shapes[self.machine.shape[task]]
        planner = next(one for one in self._planners if shape.action in one.actions)
        lost = TaskSpec(
            name=machine.name(task),
            action=shape.action,
            arguments=self._arguments(task),
            priority=int(machine.priority[task]),
            mode=shape.mode,
            retries=int(machine.retries[task]),
            device=machine.pinned.get(task, ""),
        )
        chunks = [msgspec.msgpack.decode(chunk) for chunk in machine.chunks.get(task, ())]
        record = machine.missions[machine.mission[task]]
        random = self._dispatch.attempt(task, machine.key(task), machine.epoch, record.seed).random
        began_s = self._clock.now_s()
        try:
            specs = await planner.repair(lost, chunks, self.fleet.view(), random)
            if machine.state[task] == TaskState.REPAIRING:
                await self._add(task, specs, repairs=True, replan_s=self._clock.now_s() - began_s)
        except JournalBroken:
            raise
        except Exception as error:  # noqa: BLE001 - a planner is a plug-in; its mistake fails one task
            if machine.state[task] == TaskState.REPAIRING:
                await self.post(ev.RepairRefused(at_s=self._clock.now_s(), ids=ev.ids_of(task), reason=str(error)))

    async def _add(self, parent: int, specs: Sequence[TaskSpec], *, repairs: bool, replan_s: float) -> None:
        now_s = self._clock.now_s()
        shapes, tasks = columns_of(specs, now_s)
        await self.post(
            ev.TasksAdded(at_s=now_s, parent=parent, repairs=repairs, replan_s=replan_s, shapes=shapes, tasks=tasks)
        )

    def _action(self, task: int) -> str:
        action: str = self.machine.shapes[self.machine.shape[task]].action
        return action

    async def _device_changed(self, device: str, state: DeviceState, reason: str, pid: int | None) -> None:
        now_s = self._clock.now_s()
        await self.post(ev.DeviceChanged(at_s=now_s, device=device, state=state, reason=reason, pid=pid))


def _slug(name: str) -> str:
    """A mission's name as the readable part of its id."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "mission"
