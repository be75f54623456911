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
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from qaios.contracts import Artifacts, Bus, Clock, Device, Journal, Placements, Planner, Policy, Ready
from qaios.core import events as ev
from qaios.core.errors import (
    DeviceFault,
    DeviceLost,
    IllegalEvent,
    Invalid,
    JournalBroken,
    NotFound,
    OutcomeUnknown,
    QaiError,
    Refused,
)
from qaios.core.machine import Effects, Machine
from qaios.core.values import (
    Batch,
    Decision,
    DeviceState,
    Done,
    Estimate,
    Never,
    Recall,
    Refusal,
    Result,
    Rung,
    Running,
    Shape,
    TaskSpec,
    TaskState,
    Unknown,
)
from qaios.kernel.columns import columns_of
from qaios.kernel.dispatch import Dispatch, DriverMistake, LiveAttempt, packed
from qaios.kernel.fleet import Fleet, estimated
from qaios.kernel.ladder import Failure, backoff_s, next_rung
from qaios.kernel.placing import Placing
from qaios.kernel.tasks import Tasks

EVENTS_TOPIC = "events"  # events in the order they were applied, durable ones only
PROGRESS_TOPIC = "progress"  # (task id, fraction, note)
_TICK_S = 1.0
_MAY_SERVE = (DeviceState.IDLE, DeviceState.BUSY, DeviceState.CLOSED, DeviceState.OPENING)
_GENERATIONS_MAX = 8  # repairs of repairs; after that the fleet is not one that can be planned for


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
        self._journal, self._policy, self._clock, self._bus = journal, policy, clock, bus
        self._planners = planners
        self._node, self._version = node, version
        self._dispatch = Dispatch(self, clock, artifacts)
        self._dispatch.on_crash = self._crashed
        self.fleet.on_silent = self._silent
        self._tasks = Tasks(self.machine)
        self._placing = Placing(self.machine, self.fleet, self._dispatch, self._repairable)
        self.waiting = self._placing.waiting  # task -> the decision that says why it still waits
        self._ready: dict[int, float] = {}  # task -> not before, in insertion order
        self._wake = asyncio.Event()
        self._broken: BaseException | None = None
        self._asides: set[asyncio.Task[None]] = set()
        self._appending: set[asyncio.Task[None]] = set()
        self._recalling: set[int] = set()  # tasks whose device is being asked what became of them
        self._watching: asyncio.Task[None] | None = None
        self._closing = False
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
            append = asyncio.get_running_loop().create_task(self._append(accepted))
            self._appending.add(append)
            append.add_done_callback(self._appending.discard)
            await asyncio.shield(append)
        if refusal is not None:
            raise refusal

    async def _durable(self) -> None:
        """Return when all that was applied until now is durable and performed."""
        if self._appending:
            await asyncio.wait(set(self._appending))
        if self._broken is not None:
            raise JournalBroken("the kernel has stopped: the journal could not be written") from self._broken

    async def _append(self, accepted: Sequence[tuple[ev.Event, Effects]]) -> None:
        batch = [event for event, _ in accepted]
        try:
            sequence = await self._journal.append(batch)
            if self._broken is not None:
                raise JournalBroken("an earlier block was lost") from self._broken
            self.sequence = max(self.sequence, sequence)
            self._bus.publish(EVENTS_TOPIC, batch)
            for _, effects in accepted:
                self._perform(effects)
        except BaseException as error:
            # The machine is now ahead of what is durable or performed. Nothing more may be; the next boot replays.
            self._crashed(error)
            if isinstance(error, JournalBroken) or not isinstance(error, Exception):
                raise
            raise JournalBroken(f"what was applied could not be carried on: {error!r}") from error

    def _perform(self, effects: Effects) -> None:
        self._offer(effects.ready)
        if len(effects.ended):
            ended = effects.ended.tolist()
            self._placing.forget(ended)
            for task in ended if self._ready else ():
                self._ready.pop(task, None)
            for task in ended if self.progress else ():
                self.progress.pop(task, None)
        if len(effects.stop):
            for task in self._dispatch.cancel(effects.stop):
                # Placed but not yet started: there is nothing to stop. One that is being recalled stops after that.
                if task not in self._recalling:
                    self._aside(self._never_started(task))
        for task in effects.repair.tolist():
            self._aside(self._repair(task))
        for mission in effects.missions:
            self._aside(self._tell_ended(mission))
        if len(effects.ready):
            self._wake.set()

    def _offer(self, ids: ev.Ids) -> None:
        """To the policy: at once, or after the back-off of a task that failed before. One that moved on is not."""
        now_s, history = self._clock.now_s(), self.machine.history
        ready = ids[self.machine.state[ids] == TaskState.READY].tolist()
        self._ready.update(dict.fromkeys(ready, now_s))
        for task in ready if history else ():
            if task in history and (tries := int(self.machine.tries[task])):
                self._ready[task] = now_s + backoff_s(tries)

    def _crashed(self, error: BaseException) -> None:
        self._broken = self._broken or error
        self._wake.set()
        for ended in self._ended.values():
            ended.set()  # who waits for an end learns that it will not come from this kernel

    def _aside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work that must not hold up the loop; its failure is the kernel's."""
        aside = asyncio.get_running_loop().create_task(work)
        self._asides.add(aside)

        def over(done: asyncio.Task[None]) -> None:
            self._asides.discard(done)
            if not done.cancelled() and (error := done.exception()) is not None:
                self._crashed(error)

        aside.add_done_callback(over)
        return aside

    # ── what doors ask ───────────────────────────────────────────────────────

    async def submit(self, new: NewMission) -> str:
        """Return the mission's id once it is durable. The same key again is the same mission."""
        if new.key and new.key in self.machine.keys:
            mission = self.machine.keys[new.key]
            await self._durable()
            return mission
        now_s = self._clock.now_s()
        mission = f"{_slug(new.name)}-{len(self.machine.missions) + 1}"
        deadline_s = None if new.deadline_s is None else now_s + new.deadline_s
        shapes, tasks = columns_of(new.tasks, now_s, np.inf if deadline_s is None else deadline_s)
        await self.post(
            ev.MissionSubmitted(
                at_s=now_s,
                mission=mission,
                name=new.name,
                goal=new.goal,
                owner=new.owner,
                key=new.key,
                seed=new.seed,
                deadline_s=deadline_s,
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
        """Return when no task of the mission can go on. Raises `JournalBroken` when the kernel stops before."""
        record = self.machine.record(mission)
        while not record.told and self._broken is None:
            self._ended[mission].clear()
            await self._ended[mission].wait()
        await self._durable()

    async def halt(self, names: Sequence[str] | None, by: str) -> Sequence[str]:
        """Stop first, write it down afterwards. Raises `NotFound` for a name that is none, once the others are."""
        asked = list(self.fleet.berths) if names is None else list(names)
        chosen = [name for name in asked if name in self.fleet.berths]
        try:
            await self.fleet.halt(asked)
        finally:
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
            return estimated(self.fleet[device].device, shapes[shape], self.fleet[device].device.status())

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
                try:
                    self.machine.apply(event)
                except IllegalEvent as error:
                    raise JournalBroken(f"block {sequence} holds an event that cannot be replayed: {error}") from error
            self.sequence = sequence
        self.fleet.still_halted(self.machine.halted)
        before = self.machine.in_state(TaskState.RUNNING, TaskState.CANCELLING)
        node = self.machine.node or self._node
        now_s = self._clock.now_s()
        await self.post(ev.KernelBooted(at_s=now_s, epoch=self.machine.epoch + 1, node=node, version=self._version))
        self._offer(self.machine.in_state(TaskState.READY))
        for task in self.machine.in_state(TaskState.REPAIRING).tolist():
            self._aside(self._repair(task))
        for record in self.machine.missions:
            if record.ended_s is not None and not record.told:
                self._aside(self._tell_ended(record.id))
        replayable = before[~self.machine.effectful[before]]
        if len(replayable):
            await self.post(ev.AttemptsLost(at_s=now_s, ids=replayable, reason="the kernel died; safe to run again"))
        for task in before[self.machine.effectful[before]].tolist():
            self._recall_soon(task, DeviceLost("the kernel died, and the device had never begun"))
        self._wake.set()

    async def run(self, ready: Any) -> None:
        """The loop, until cancelled. Raises what broke the kernel."""
        ready()
        if self._watching is None:
            self._watching = self._aside(self.fleet.watch())
        while self._broken is None:
            await self._wait()
            if self._broken is None:
                await self._cycle()
        if isinstance(self._broken, JournalBroken):
            raise self._broken
        # What the machine says and what was performed may differ now: starting `run` again would go on from there.
        raise JournalBroken(f"the kernel stopped by a mistake of its own: {self._broken!r}") from self._broken

    async def close(self) -> None:
        self._closing = True
        asides = tuple(self._asides)
        for aside in asides:
            aside.cancel()
        await asyncio.gather(*asides, return_exceptions=True)
        await self._dispatch.close()
        await self.fleet.close()
        if self._appending:
            await asyncio.wait(set(self._appending))

    async def _wait(self) -> None:
        """Until there may be something to place, or a second has passed while something waits."""
        loop = asyncio.get_running_loop()
        waits: list[asyncio.Task[Any]] = [
            loop.create_task(self._wake.wait()),
            loop.create_task(self.fleet.changed.wait()),
        ]
        if any(record.ended_s is None for record in self.machine.missions):
            waits.append(loop.create_task(self._clock.sleep(self._next_tick_s())))
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        for wait in done:
            wait.result()
        self._wake.clear()
        self.fleet.changed.clear()

    def _next_tick_s(self) -> float:
        """Until the next back-off is over, a tick at most."""
        now_s = self._clock.now_s()
        later = [not_before_s for not_before_s in self._ready.values() if not_before_s > now_s]
        return min(_TICK_S, min(later) - now_s) if later else _TICK_S

    async def _cycle(self) -> None:
        """One placement cycle."""
        await self._note_deadlines()
        # No await from here to the placement's apply: what the policy saw is what is true.
        now_s = self._clock.now_s()
        due = np.array([task for task, not_before_s in self._ready.items() if not_before_s <= now_s], np.int64)
        if not len(due):
            return
        shapes = [(shape, self.machine.shapes[shape]) for shape in np.unique(self.machine.shape[due]).tolist()]
        self.fleet.open_soon(self.fleet.wanted({shape.action for _, shape in shapes}))
        if working := self.fleet.prepare(shapes):
            due = self._put_off(due, working, now_s)
        await self._record(self._place(due, now_s), now_s)

    def _put_off(self, due: ev.Ids, working: Mapping[int, str], now_s: float) -> ev.Ids:
        """Without those of shapes that a device is still working out an estimate for."""
        for task, shape in zip(due.tolist(), self.machine.shape[due].tolist(), strict=True):
            if shape in working:
                busy = Refusal(working[shape], "is working out its estimate")
                self.waiting[task] = Decision(refusals=(busy,), policy=self._policy.name, at_s=now_s)
        return due[~np.isin(self.machine.shape[due], list(working))]

    def _place(self, due: ev.Ids, now_s: float) -> Placements:
        machine = self.machine
        ready = Ready(
            due.tolist(),
            machine.shape[due].tolist(),
            machine.priority[due].tolist(),
            machine.deadline_s[due].tolist(),
            machine.ready_s[due].tolist(),
            machine.excluded,
            machine.pinned,
            machine.shapes,
        )

        def estimate(device: str, shape: int) -> Estimate:
            return self.fleet.estimate(device, shape, machine.shapes[shape])

        return self._policy.place(ready, self.fleet.view(), estimate, now_s)

    async def _record(self, placements: Placements, now_s: float) -> None:
        groups = self._placing.groups(placements)
        travelling = {task for ids in groups.values() for task in ids}
        placed = [one for one in placements.placed if one.task in travelling]
        held_up = {one.task: one.decision for one in placements.placed if one.task not in travelling}
        self._placing.note({**placements.waiting, **held_up}, placements.decisions)
        events: list[ev.Event] = [self._placing.placed(placed, placements.decisions, now_s)] if placed else []
        events += self._placing.rerouted(placements, now_s)
        if not events:
            return
        gone = [*travelling, *placements.impossible]
        self._placing.forget(gone)
        for task in gone:
            self._ready.pop(task, None)
        for (device, _), ids in groups.items():
            shape = int(self.machine.shape[ids[0]])
            estimate = self.fleet.estimate(device, shape, self.machine.shapes[shape])
            self.fleet.hold(device, estimate.duration_s * len(ids))
        await self.post(*events)
        for (device, _), ids in groups.items():
            self._start(device, np.array(ids, np.int64))

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
        if not len(live) or self._broken is not None:
            # Cancelled while the placement became durable: that is confirmed already, the device never hears of it.
            self.fleet.free(name)
            return
        device, first = self.fleet[name].device, int(live[0])
        attempt = self._attempt(first)
        try:
            if len(live) > 1:
                shape = int(self.machine.shape[first])
                mission = self.machine.missions[self.machine.mission[first]].id
                batch = Batch(live, mission, self.machine.shapes[shape], self._tasks.rows(live, shape))
                self._dispatch.start_batch(device, batch, attempt)
            else:
                self._dispatch.start(device, self._tasks.task(first), attempt)
        except QaiError as error:
            self.fleet.free(name)
            self._aside(self.failed(name, live, error))

    def _attempt(self, task: int) -> LiveAttempt:
        record = self.machine.missions[self.machine.mission[task]]
        return self._dispatch.attempt(task, self.machine.key(task), self.machine.epoch, record.seed)

    async def finished(self, device: str, ids: ev.Ids, results: ev.Blobs) -> None:
        await self.post(ev.TasksFinished(at_s=self._clock.now_s(), ids=ids, results=results))

    async def spawned(self, device: str, task: int, result: bytes, specs: Sequence[TaskSpec]) -> None:
        """A task is done and adds others: one block, so that no crash can part the two."""
        ids = ev.ids_of(task)
        if self.machine.state[task] == TaskState.CANCELLING:
            # What it would have added is not wanted any more, so it is not done either.
            await self.post(ev.TasksCancelled(at_s=self._clock.now_s(), ids=ids))
            return
        try:
            added = self._added(task, specs, repairs=False, replan_s=0.0)
            await self.post(added, ev.TasksFinished(at_s=self._clock.now_s(), ids=ids, results=ev.Blobs.of([result])))
        except Invalid as error:
            fault = DeviceFault(f"its result adds tasks that cannot be added: {error}", retryable=False)
            await self.failed(device, ids, fault)

    async def failed(self, device: str, ids: ev.Ids, error: QaiError) -> None:
        """One attempt of each did not succeed: climb the ladder, or say that nobody knows."""
        now_s, machine = self._clock.now_s(), self.machine
        lost = isinstance(error, DeviceLost)
        if lost:
            await self.fleet.lost(device, str(error))
        ids = ids[np.isin(machine.state[ids], (TaskState.RUNNING, TaskState.CANCELLING))]
        in_doubt = ids[self._in_doubt(ids, error)]
        if len(in_doubt):
            await self._unknown(in_doubt, device, f"{error}; the effect may have happened" if lost else str(error))
        ids = ids[~np.isin(ids, in_doubt)]
        if isinstance(error, DriverMistake):
            for task in ids[machine.effectful[ids]].tolist():
                self._recall_soon(task, DeviceFault(str(error), retryable=False))
            ids = ids[~machine.effectful[ids]]
        cancelling = ids[machine.state[ids] == TaskState.CANCELLING]
        if len(cancelling):
            await self.post(ev.TasksCancelled(at_s=now_s, ids=cancelling))
        rungs: dict[Rung, list[int]] = defaultdict(list)
        for task in ids[machine.state[ids] == TaskState.RUNNING].tolist():
            rungs[self._rung(task, device, error)].append(task)
        if not rungs:
            return
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

    def _in_doubt(self, ids: ev.Ids, error: QaiError) -> NDArray[np.bool_]:
        """Which of these have an effect that may or may not have happened: only a planner may go on from there."""
        if isinstance(error, OutcomeUnknown):
            return np.ones(len(ids), np.bool_)
        if not isinstance(error, DeviceLost):
            return np.zeros(len(ids), np.bool_)
        cancelling = self.machine.state[ids] == TaskState.CANCELLING
        planned = np.array([self._repairable(task) for task in ids.tolist()], np.bool_)
        doubtful: NDArray[np.bool_] = self.machine.effectful[ids] & (cancelling | ~planned)
        return doubtful

    def _rung(self, task: int, device: str, error: QaiError) -> Rung:
        machine, shape = self.machine, self.machine.shapes[self.machine.shape[task]]
        excluded = machine.excluded.get(task, frozenset()) | {device}
        elsewhere = task not in machine.pinned and any(
            berth.device.spec.action(shape.action) and name not in excluded and berth.state in _MAY_SERVE
            for name, berth in self.fleet.berths.items()
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
                repairable=self._repairable(task),
            )
        )

    def _repairable(self, task: int) -> bool:
        """Whether a planner knows its action, and repairs of repairs have not gone on for too long."""
        generation, parent = 0, self.machine.spawned_by.get(task)
        while parent is not None and generation < _GENERATIONS_MAX:
            generation += int(self.machine.state[parent] == TaskState.REPAIRED)
            parent = self.machine.spawned_by.get(parent)
        action = self._action(task)
        return generation < _GENERATIONS_MAX and any(action in planner.actions for planner in self._planners)

    async def cancelled(self, device: str, ids: ev.Ids) -> None:
        """The device has confirmed; it may have stopped what nobody asked it to stop."""
        asked = ids[self.machine.state[ids] == TaskState.CANCELLING]
        if len(asked):
            await self.post(ev.TasksCancelled(at_s=self._clock.now_s(), ids=asked))
        rest = ids[self.machine.state[ids] == TaskState.RUNNING]
        if len(rest):
            await self.failed(device, rest, DriverMistake("the device stopped the attempt by itself", retryable=False))

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

    def _silent(self, device: str) -> None:
        self._dispatch.lose(device, DeviceLost(f"{device} is lost: {self.fleet[device].reason}"))

    def _recall_soon(self, task: int, never: QaiError) -> None:
        """Ask the device what became of an effect, before anything else happens to the task.

        `never` is what went wrong, if the device had never begun: after a crash of the kernel it just begins again.
        """
        self._recalling.add(task)
        self._aside(self._recall(task, never))

    async def _recall(self, task: int, never: QaiError) -> None:
        name, ids = self.machine.device_name(task), ev.ids_of(task)
        try:
            answer = await self._asked(task, name)
        finally:
            self._recalling.discard(task)
        now_s = self._clock.now_s()
        if isinstance(answer, QaiError):
            await self.failed(name, ids, answer)
        elif isinstance(answer, Done):
            await self._brought_back(name, task, answer.result)
        elif isinstance(answer, Running):
            self.fleet.hold(name)
            self._start_again(name, task)
        elif isinstance(answer, Unknown):
            await self._unknown(ids, name, answer.reason or "the device cannot say")
        elif isinstance(never, DeviceLost):
            await self.post(ev.AttemptsLost(at_s=now_s, ids=ids, reason=str(never)))
        else:
            # Nothing happened, so the mistake is an ordinary failure.
            await self.failed(name, ids, DeviceFault(str(never), retryable=False))

    async def _asked(self, task: int, name: str) -> Recall | QaiError:
        """The device's answer; a device that cannot be asked for a while is lost."""
        if name not in self.fleet.berths:
            return Unknown("this node no longer has the device it was given to")
        berth = self.fleet[name]
        await self.fleet.open([name])
        while not berth.opened:
            if self.fleet.hopeless(name):
                return DeviceLost(f"{name} cannot be asked what became of it: {berth.reason or berth.state}")
            await self._clock.sleep(_TICK_S)
            await self.fleet.open([name])
        try:
            answer = await berth.device.recall(self.machine.key(task))
        except Exception as error:  # noqa: BLE001 - a driver is not ours; not knowing is the safe reading
            return Unknown(f"the device failed to say: {type(error).__name__}: {error}")
        known = isinstance(answer, (Done, Running, Never, Unknown))
        return answer if known else Unknown(f"the device answered {answer!r}")

    async def _brought_back(self, name: str, task: int, result: Result) -> None:
        try:
            blob, specs = packed(result)
        except (TypeError, ValueError, OverflowError) as error:
            await self._unknown(
                ev.ids_of(task), name, f"the device says it is done, with a result that is none: {error}"
            )
            return
        if specs:
            await self.spawned(name, task, blob, specs)
        else:
            await self.finished(name, ev.ids_of(task), ev.Blobs.of([blob]))

    def _start_again(self, name: str, task: int) -> None:
        """The same key joins the run that the device already has."""
        try:
            self._dispatch.start(self.fleet[name].device, self._tasks.task(task), self._attempt(task))
        except QaiError as error:
            self.fleet.free(name)
            self._aside(self._unknown(ev.ids_of(task), name, f"the device is at it, but it cannot be joined: {error}"))
            return
        if self.machine.state[task] == TaskState.CANCELLING:
            self._dispatch.cancel(ev.ids_of(task))

    async def _unknown(self, ids: ev.Ids, name: str, reason: str) -> None:
        await self.post(ev.AttemptsUnknown(at_s=self._clock.now_s(), ids=ids, device=name, reason=reason))

    async def _repair(self, task: int) -> None:
        machine, action = self.machine, self._action(task)
        try:
            planner = next((one for one in self._planners if action in one.actions), None)
            if planner is None:
                raise Refused(f"no planner of this node knows {action}")
            began_s = self._clock.now_s()
            chunks = [msgspec.msgpack.decode(chunk) for chunk in machine.chunks.get(task, ())]
            specs = await planner.repair(self._tasks.lost(task), chunks, self.fleet.view(), self._attempt(task).random)
            if machine.state[task] == TaskState.REPAIRING:
                await self.post(self._added(task, specs, repairs=True, replan_s=self._clock.now_s() - began_s))
        except JournalBroken:
            raise
        except Exception as error:  # noqa: BLE001 - a planner is a plug-in; its mistake fails one task
            if machine.state[task] == TaskState.REPAIRING:
                reason = str(error) if isinstance(error, QaiError) else f"{type(error).__name__}: {error}"
                await self.post(ev.RepairRefused(at_s=self._clock.now_s(), ids=ev.ids_of(task), reason=reason))

    def _added(self, parent: int, specs: Sequence[TaskSpec], *, repairs: bool, replan_s: float) -> ev.TasksAdded:
        record = self.machine.missions[self.machine.mission[parent]]
        latest_s = np.inf if record.deadline_s is None else record.deadline_s
        shapes, tasks = columns_of(specs, record.submitted_s, latest_s)
        now_s = self._clock.now_s()
        return ev.TasksAdded(at_s=now_s, parent=parent, repairs=repairs, replan_s=replan_s, shapes=shapes, tasks=tasks)

    def _action(self, task: int) -> str:
        action: str = self.machine.shapes[self.machine.shape[task]].action
        return action

    async def _device_changed(self, device: str, state: DeviceState, reason: str, pid: int | None) -> None:
        if self._closing and self._broken is not None:
            return  # nothing can be written any more, and closing must go on
        now_s = self._clock.now_s()
        await self.post(ev.DeviceChanged(at_s=now_s, device=device, state=state, reason=reason, pid=pid))


def _slug(name: str) -> str:
    """A mission's name as the readable part of its id."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "mission"
