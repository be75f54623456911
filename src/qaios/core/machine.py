"""The state machine of all tasks: batched events in, effects out, nothing else.

                    ┌──────────── retry, elsewhere, fallback, lost ───────────┐
                    ▼                                                         │
    WAITING ──▶ READY ──▶ RUNNING ──▶ DONE                                    │
       │          │          ├─────▶ AttemptsFailed ──▶ (rung) ───────────────┤
       │          │          ├─────▶ UNKNOWN ──▶ DONE | READY (a person says) │
       │          │          ├─────▶ CANCELLING ──▶ CANCELLED                 │
       │          │          └─────▶ REPAIRING ──▶ REPAIRED | FAILED ─────────┘
       └──────────┴─── CANCELLED, FAILED (what it needs failed)

`Machine.apply` first validates (raising `IllegalEvent` with nothing changed), then changes the columns, then
says what the kernel must do. The kernel journals the event between validation and effects; recovery replays
the same events into a fresh machine and drops the effects. There is no clock here: times arrive in events.

A million tasks are a dozen numpy columns and two CSR segments of edges; no object per task. What only a few
tasks have (a reason, an excluded device, edges added at run time) lives in dictionaries.
`testing.reference` is the same machine with one object per task; hypothesis holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from qaios.core import events as ev
from qaios.core.errors import IllegalEvent, NotFound
from qaios.core.values import Decision, DeviceState, MissionState, Result, Rung, Shape, TaskState

Ids = NDArray[np.int64]
_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Effects:
    """What the kernel must do after an event is durable."""

    ready: Ids = field(default_factory=lambda: _NONE)  # offer these to the policy
    stop: Ids = field(default_factory=lambda: _NONE)  # ask their devices to stop
    repair: Ids = field(default_factory=lambda: _NONE)  # ask a planner
    ended: Ids = field(default_factory=lambda: _NONE)  # these tasks reached an end
    missions: tuple[str, ...] = ()  # these missions reached an end


@dataclass(slots=True)
class MissionRecord:
    """One mission: what was asked, and how far it is."""

    index: int
    id: str
    name: str
    goal: str
    owner: str
    key: str
    seed: int
    submitted_s: float
    deadline_s: float | None
    document: bytes
    counts: NDArray[np.int64]  # tasks per TaskState
    names: dict[str, int] = field(default_factory=dict)  # task name -> id
    ended_s: float | None = None
    told: bool = False  # its end is in the journal

    @property
    def state(self) -> MissionState:
        # A waiting task can go on only while something it needs can: an unknown effect holds all that waits for it.
        if self.counts[TaskState.READY : TaskState.UNKNOWN].any():
            return MissionState.RUNNING
        if self.counts[TaskState.UNKNOWN]:
            return MissionState.STUCK
        if self.counts[TaskState.FAILED]:
            return MissionState.FAILED
        if self.counts[TaskState.CANCELLED]:
            return MissionState.CANCELLED
        return MissionState.DONE


@dataclass(slots=True)
class _Segment:
    """Tasks submitted together: successors and needs of each in compressed sparse rows, global ids."""

    first: int
    last: int  # exclusive
    after_start: NDArray[np.int64]
    after: NDArray[np.int32]
    needs_start: NDArray[np.int64]
    needs: NDArray[np.int32]
    columns: ev.TaskColumns


_COLUMNS: Mapping[str, tuple[Any, Any]] = {
    "state": (np.uint8, TaskState.WAITING),
    "mission": (np.int32, 0),
    "shape": (np.int32, 0),
    "priority": (np.int32, 0),
    "deadline_s": (np.float64, np.inf),
    "retries": (np.uint8, 0),
    "waits": (np.int32, 0),
    "attempts": (np.uint16, 0),
    "tries": (np.uint16, 0),  # attempts since the device or the action last changed
    "device": (np.int16, -1),
    "decision": (np.int32, -1),
    "effectful": (np.bool_, False),
    "ready_s": (np.float64, np.nan),
    "started_s": (np.float64, np.nan),
    "ended_s": (np.float64, np.nan),
    "block": (np.int32, -1),  # which `results` block holds its result
    "item": (np.int32, 0),  # and where in it
}


class Machine:
    """The columns and the rules. One instance per kernel; not thread-safe, and it need not be."""

    def __init__(self) -> None:
        self.count = 0
        self.epoch = 0
        self.node = ""
        for name, (dtype, fill) in _COLUMNS.items():
            setattr(self, name, np.full(1024, fill, dtype))
        self.segments: list[_Segment] = []
        self.missions: list[MissionRecord] = []
        self.mission_ids: dict[str, MissionRecord] = {}
        self.keys: dict[str, str] = {}
        self.shapes: list[Shape] = []
        self._shape_index: dict[bytes, int] = {}
        self.devices: list[str] = []
        self._device_index: dict[str, int] = {}
        self.decisions: list[Decision] = []
        self.results: list[ev.Blobs] = []
        self.more_after: dict[int, list[int]] = {}
        self.more_needs: dict[int, list[int]] = {}
        self.spawned_by: dict[int, int] = {}
        self.children: dict[int, list[int]] = {}
        self.reasons: dict[int, str] = {}
        self.excluded: dict[int, frozenset[str]] = {}
        self.fallback: dict[int, str] = {}
        self.pinned: dict[int, str] = {}
        self.fell_back: dict[int, str] = {}  # task -> the action it was asked for first
        self.chunks: dict[int, list[bytes]] = {}
        self.late: set[int] = set()
        self.halted: set[str] = set()  # devices that stay stopped, over restarts too, until they are released
        self.history: dict[int, list[str]] = {}  # what went wrong on the way, in words

    state: NDArray[np.uint8]
    mission: NDArray[np.int32]
    shape: NDArray[np.int32]
    priority: NDArray[np.int32]
    deadline_s: NDArray[np.float64]
    retries: NDArray[np.uint8]
    waits: NDArray[np.int32]
    attempts: NDArray[np.uint16]
    tries: NDArray[np.uint16]
    device: NDArray[np.int16]
    decision: NDArray[np.int32]
    effectful: NDArray[np.bool_]
    ready_s: NDArray[np.float64]
    started_s: NDArray[np.float64]
    ended_s: NDArray[np.float64]
    block: NDArray[np.int32]
    item: NDArray[np.int32]

    # ── the one door for change ──────────────────────────────────────────────

    def apply(self, event: ev.Event) -> Effects:
        """Raises `IllegalEvent` and changes nothing when the event does not fit the present state."""
        rule = self._rules.get(type(event))
        return rule(self, event) if rule else Effects()

    def _on_boot(self, event: ev.KernelBooted) -> Effects:
        if event.epoch <= self.epoch:
            raise IllegalEvent(f"epoch {event.epoch} is not after {self.epoch}")
        self.epoch = event.epoch
        self.node = self.node or event.node
        return Effects()

    def _on_submitted(self, event: ev.MissionSubmitted) -> Effects:
        if event.mission in self.mission_ids:
            raise IllegalEvent(f"mission {event.mission} was submitted before")
        if event.key and event.key in self.keys:
            raise IllegalEvent(f"key {event.key} was used before, by mission {self.keys[event.key]}")
        if not len(event.tasks.shape):
            raise IllegalEvent(f"mission {event.mission} has no tasks")
        names = _checked_names(event.tasks, len(event.shapes), ())
        order = len(self.missions)
        record = MissionRecord(
            order, event.mission, event.name, event.goal, event.owner, event.key, event.seed, event.at_s,
            event.deadline_s, event.document, np.zeros(len(TaskState), np.int64),
        )  # fmt: skip
        self.missions.append(record)
        self.mission_ids[event.mission] = record
        if event.key:
            self.keys[event.key] = event.mission
        new = self._append(record, names, event.tasks, event.shapes)
        return self._release(new[self.waits[new] == 0], event.at_s)

    def _on_added(self, event: ev.TasksAdded) -> Effects:
        parent = event.parent
        self._expect(
            ev.ids_of(parent), *((TaskState.REPAIRING,) if event.repairs else (TaskState.RUNNING, TaskState.DONE))
        )
        record = self.missions[self.mission[parent]]
        names = _checked_names(event.tasks, len(event.shapes), record.names)
        dependents = self.dependents(parent)
        dependents = dependents[~np.isin(self.state[dependents], (TaskState.FAILED, TaskState.CANCELLED))]
        if np.any(self.state[dependents] != TaskState.WAITING):
            raise IllegalEvent(f"task {parent} cannot add tasks: who needs it has already begun")
        new = self._append(record, names, event.tasks, event.shapes)
        self.children.setdefault(parent, []).extend(int(child) for child in new)
        self.spawned_by.update({int(child): parent for child in new})
        for dependent in (int(one) for one in dependents):
            self.more_needs.setdefault(dependent, []).extend(int(child) for child in new)
            self.waits[dependent] += len(new)
        for child in (int(one) for one in new):
            self.more_after.setdefault(child, []).extend(int(one) for one in dependents)
        released = self._release(new[self.waits[new] == 0], event.at_s)
        if not event.repairs:
            # Nothing was added to a mission that had ended: it still has.
            return _joined(released, Effects(missions=self._missions_ended(ev.ids_of(parent), event.at_s)))
        return _joined(released, self._end(ev.ids_of(parent), TaskState.REPAIRED, event.at_s))

    def _on_placed(self, event: ev.TasksPlaced) -> Effects:
        self._expect(event.ids, TaskState.READY)
        count = len(event.ids)
        for column, table, word in (
            (event.device, event.devices, "device"),
            (event.decision, event.decisions, "decision"),
        ):
            if len(column) != count or (count and int(column.max()) >= len(table)):
                raise IllegalEvent(f"{count} tasks are placed with a {word} column that does not fit its table")
        if len(event.effectful) != count:
            raise IllegalEvent(f"{count} tasks are placed with {len(event.effectful)} effects")
        first = len(self.decisions)
        self.decisions.extend(event.decisions)
        known = np.array([self._device(name) for name in event.devices], np.int16)
        self._move(event.ids, TaskState.RUNNING)
        self.device[event.ids] = known[event.device]
        self.decision[event.ids] = event.decision.astype(np.int32) + first
        self.effectful[event.ids] = event.effectful
        self.attempts[event.ids] += 1
        self.tries[event.ids] += 1
        self.started_s[event.ids] = event.at_s
        return Effects()

    def _on_finished(self, event: ev.TasksFinished) -> Effects:
        self._expect(event.ids, TaskState.RUNNING, TaskState.CANCELLING)
        if len(event.results) != len(event.ids):
            raise IllegalEvent(f"{len(event.ids)} tasks finished with {len(event.results)} results")
        self._keep_results(event.ids, event.results)
        return self._end(event.ids, TaskState.DONE, event.at_s)

    def _on_failed(self, event: ev.AttemptsFailed) -> Effects:
        self._expect(event.ids, TaskState.RUNNING, TaskState.CANCELLING)
        cancelling = event.ids[self.state[event.ids] == TaskState.CANCELLING]
        if len(cancelling) and event.rung is not Rung.FAIL:
            raise IllegalEvent("a task that is being cancelled is not tried again")
        if event.rung is Rung.FALLBACK:
            self._expect_fallback(event.ids)
        for task in (int(one) for one in event.ids):
            self.reasons[task] = event.reason
            self.history.setdefault(task, []).append(f"{event.device}: {event.reason} → {event.rung}")
            if event.rung is Rung.ELSEWHERE:
                self.excluded[task] = self.excluded.get(task, frozenset()) | {event.device}
                self.tries[task] = 0
            elif event.rung is Rung.FALLBACK:
                self._take_fallback(task)
        if event.rung is Rung.FAIL:
            return self._end(event.ids, TaskState.FAILED, event.at_s)
        if event.rung is Rung.REPAIR:
            self._move(event.ids, TaskState.REPAIRING)
            return Effects(repair=event.ids)
        return self._release(event.ids, event.at_s)

    def _on_lost(self, event: ev.AttemptsLost) -> Effects:
        self._expect(event.ids, TaskState.RUNNING, TaskState.CANCELLING)
        cancelled = event.ids[self.state[event.ids] == TaskState.CANCELLING]
        again = event.ids[self.state[event.ids] == TaskState.RUNNING]
        for task in (int(one) for one in again):
            self.history.setdefault(task, []).append(event.reason)
        self.tries[again] -= 1
        return _joined(self._release(again, event.at_s), self._end(cancelled, TaskState.CANCELLED, event.at_s))

    def _on_unknown(self, event: ev.AttemptsUnknown) -> Effects:
        self._expect(event.ids, TaskState.RUNNING, TaskState.CANCELLING)
        self._move(event.ids, TaskState.UNKNOWN)
        for task in (int(one) for one in event.ids):
            self.reasons[task] = event.reason
            self.history.setdefault(task, []).append(f"{event.device}: outcome unknown: {event.reason}")
        return Effects(missions=self._missions_ended(event.ids, event.at_s))

    def _on_resolved(self, event: ev.UnknownResolved) -> Effects:
        self._expect(event.ids, TaskState.UNKNOWN)
        self._reopen(event.ids)
        if not event.happened:
            return self._release(event.ids, event.at_s)
        said = msgspec.msgpack.encode(Result(value=None, provenance={"resolved_by": event.by}))
        self._keep_results(event.ids, ev.Blobs.of([said] * len(event.ids)))
        return self._end(event.ids, TaskState.DONE, event.at_s)

    def _on_repair_refused(self, event: ev.RepairRefused) -> Effects:
        self._expect(event.ids, TaskState.REPAIRING)
        for task in (int(one) for one in event.ids):
            self.reasons[task] = f"{self.reasons.get(task, '')}; no repair: {event.reason}"
        return self._end(event.ids, TaskState.FAILED, event.at_s)

    def _on_rerouted(self, event: ev.TasksRerouted) -> Effects:
        self._expect(event.ids, TaskState.READY)
        rung = Rung.FALLBACK if event.fallback else Rung.REPAIR if event.repair else Rung.FAIL
        if rung is Rung.FALLBACK:
            self._expect_fallback(event.ids)
        for task in event.ids.tolist():
            self.reasons[task] = event.reason
            self.history.setdefault(task, []).append(f"{event.reason} → {rung}")
            if rung is Rung.FALLBACK:
                self._take_fallback(task)
        if rung is Rung.FALLBACK:
            return Effects(ready=event.ids)
        if rung is Rung.REPAIR:
            self._move(event.ids, TaskState.REPAIRING)
            return Effects(repair=event.ids)
        return self._end(event.ids, TaskState.FAILED, event.at_s)

    def _on_cancel_asked(self, event: ev.CancelAsked) -> Effects:
        self._expect(event.ids, *TaskState)
        live = event.ids[self.state[event.ids] < TaskState.DONE]
        state = self.state[live]
        running = live[state == TaskState.RUNNING]
        self._move(running, TaskState.CANCELLING)
        idle = live[(state != TaskState.RUNNING) & (state != TaskState.CANCELLING)]
        unknown = set(live[state == TaskState.UNKNOWN].tolist())
        for task in live.tolist():
            doubt = f"; its outcome is unknown: {self.reasons[task]}" if task in unknown else ""
            self.reasons[task] = f"cancelled by {event.by}{doubt}"
        self._reopen(live)
        return _joined(Effects(stop=running), self._end(idle, TaskState.CANCELLED, event.at_s))

    def _on_cancelled(self, event: ev.TasksCancelled) -> Effects:
        self._expect(event.ids, TaskState.CANCELLING)
        return self._end(event.ids, TaskState.CANCELLED, event.at_s)

    def _on_chunk(self, event: ev.ChunkEmitted) -> Effects:
        if not 0 <= event.id < self.count:
            raise IllegalEvent(f"no task {event.id}")
        self.chunks.setdefault(event.id, []).append(event.chunk)
        return Effects()

    def _on_device(self, event: ev.DeviceChanged) -> Effects:
        if event.state is DeviceState.HALTED:
            self.halted.add(event.device)
        else:
            self.halted.discard(event.device)
        return Effects()

    def _on_halted(self, event: ev.Halted) -> Effects:
        self.halted.update(event.devices)
        return Effects()

    def _on_late(self, event: ev.DeadlineMissed) -> Effects:
        self._expect(event.ids, *TaskState)
        self.late.update(int(task) for task in event.ids)
        return Effects()

    def _on_mission_ended(self, event: ev.MissionEnded) -> Effects:
        record = self.mission_ids.get(event.mission)
        if record is None or record.ended_s is None:
            raise IllegalEvent(f"mission {event.mission} has not ended")
        record.told = True
        return Effects()

    _rules: ClassVar[Mapping[type[ev.Event], Callable[..., Effects]]] = {
        ev.KernelBooted: _on_boot,
        ev.MissionSubmitted: _on_submitted,
        ev.TasksAdded: _on_added,
        ev.TasksPlaced: _on_placed,
        ev.TasksFinished: _on_finished,
        ev.AttemptsFailed: _on_failed,
        ev.AttemptsLost: _on_lost,
        ev.AttemptsUnknown: _on_unknown,
        ev.UnknownResolved: _on_resolved,
        ev.RepairRefused: _on_repair_refused,
        ev.TasksRerouted: _on_rerouted,
        ev.CancelAsked: _on_cancel_asked,
        ev.TasksCancelled: _on_cancelled,
        ev.ChunkEmitted: _on_chunk,
        ev.DeadlineMissed: _on_late,
        ev.DeviceChanged: _on_device,
        ev.Halted: _on_halted,
        ev.MissionEnded: _on_mission_ended,
    }

    # ── questions ────────────────────────────────────────────────────────────

    def in_state(self, *states: TaskState) -> Ids:
        return np.flatnonzero(np.isin(self.state[: self.count], states))

    def record(self, mission: str) -> MissionRecord:
        try:
            return self.mission_ids[mission]
        except KeyError:
            raise NotFound(f"no mission {mission}", hint="`qai mission ls` lists them") from None

    def tasks_of(self, record: MissionRecord) -> Ids:
        return np.flatnonzero(self.mission[: self.count] == record.index)

    def name(self, task: int) -> str:
        segment = self._segment(task)
        return segment.columns.names[task - segment.first].decode()

    def own_arguments(self, task: int) -> bytes:
        """Those a task does not share with its shape, packed; empty where it shares all."""
        segment = self._segment(task)
        return b"" if segment.columns.arguments is None else segment.columns.arguments[task - segment.first]

    def arguments(self, task: int) -> Mapping[str, Any]:
        """As written: references unresolved."""
        if own := self.own_arguments(task):
            decoded: dict[str, Any] = msgspec.msgpack.decode(own, type=dict[str, Any])
            return decoded
        form: Mapping[str, Any] = self.shapes[self.shape[task]].form
        return form

    def needs(self, task: int) -> Ids:
        segment = self._segment(task)
        row = task - segment.first
        own = segment.needs[segment.needs_start[row] : segment.needs_start[row + 1]].astype(np.int64)
        return np.concatenate([own, np.array(self.more_needs.get(task, ()), np.int64)])

    def dependents(self, task: int) -> Ids:
        return self._after(ev.ids_of(task))

    def result_blob(self, task: int) -> bytes | None:
        return self.results[self.block[task]][int(self.item[task])] if self.block[task] >= 0 else None

    def result(self, task: int) -> Result | None:
        blob = self.result_blob(task)
        return None if blob is None else msgspec.msgpack.decode(blob, type=Result)

    def key(self, task: int) -> str:
        """The idempotency key: the same for every attempt of the task, different on every node."""
        return f"{self.node}/{self.missions[self.mission[task]].id}/{self.name(task)}"

    def device_name(self, task: int) -> str:
        return self.devices[self.device[task]] if self.device[task] >= 0 else ""

    # ── how the columns change ───────────────────────────────────────────────

    def _expect(self, ids: Ids, *states: TaskState) -> None:
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= self.count):
            raise IllegalEvent("an event names a task that does not exist")
        if len(ids) > 1 and len(np.unique(ids)) != len(ids):
            raise IllegalEvent("an event names a task twice")
        wrong = ids[~np.isin(self.state[ids], states)]
        if len(wrong):
            task = int(wrong[0])
            wanted = " or ".join(state.name for state in states)
            raise IllegalEvent(f"task {task} ({self.name(task)}) is {TaskState(self.state[task]).name}, not {wanted}")

    def _expect_fallback(self, ids: Ids) -> None:
        without = next((task for task in ids.tolist() if task not in self.fallback), None)
        if without is not None:
            raise IllegalEvent(f"task {without} ({self.name(without)}) names no fallback, or has taken it")

    def _keep_results(self, ids: Ids, results: ev.Blobs) -> None:
        self.block[ids] = len(self.results)
        self.item[ids] = np.arange(len(ids), dtype=np.int32)
        self.results.append(results)
        if self.reasons:
            # What went wrong on the way stays in `history`; a reason is why a task is not done.
            for task in ids.tolist():
                self.reasons.pop(task, None)

    def _append(
        self, record: MissionRecord, names: Sequence[str], columns: ev.TaskColumns, shapes: Sequence[Shape]
    ) -> Ids:
        first, more = self.count, len(columns.shape)
        self._grow(first + more)
        self.count += more
        new = np.arange(first, self.count, dtype=np.int64)
        table = np.array([self._shape(shape) for shape in shapes], np.int32)
        self.mission[new] = record.index
        self.shape[new] = table[columns.shape] if more else columns.shape
        self.priority[new] = columns.priority
        self.deadline_s[new] = columns.deadline_s
        self.retries[new] = columns.retries
        self.waits[new] = np.bincount(columns.heads, minlength=more)
        self.state[new] = TaskState.WAITING
        after_start, after = _rows(columns.tails, columns.heads, more, first)
        needs_start, needs = _rows(columns.heads, columns.tails, more, first)
        self.segments.append(_Segment(first, self.count, after_start, after, needs_start, needs, columns))
        record.counts[TaskState.WAITING] += more
        record.names.update(zip(names, range(first, self.count), strict=True))
        self.fallback.update({first + row: action for row, action in columns.fallback.items()})
        self.pinned.update({first + row: device for row, device in columns.device.items()})
        record.ended_s, record.told = None, False
        return new

    def _grow(self, needed: int) -> None:
        size = len(self.state)
        if needed <= size:
            return
        while size < needed:
            size *= 2
        for name, (dtype, fill) in _COLUMNS.items():
            wider = np.full(size, fill, dtype)
            wider[: self.count] = getattr(self, name)[: self.count]
            setattr(self, name, wider)

    def _shape(self, shape: Shape) -> int:
        text = msgspec.msgpack.encode(shape)
        if text not in self._shape_index:
            self._shape_index[text] = len(self.shapes)
            self.shapes.append(shape)
        return self._shape_index[text]

    def _device(self, name: str) -> int:
        if name not in self._device_index:
            self._device_index[name] = len(self.devices)
            self.devices.append(name)
        return self._device_index[name]

    def _take_fallback(self, task: int) -> None:
        asked = self.shapes[self.shape[task]]
        self.fell_back[task] = asked.action
        self.shape[task] = self._shape(Shape(self.fallback.pop(task), asked.form))
        self.excluded.pop(task, None)
        self.pinned.pop(task, None)
        self.tries[task] = 0

    def _move(self, ids: Ids, state: TaskState) -> None:
        """Change state and keep the counts of every mission right."""
        if not len(ids):
            return
        missions, row = np.unique(self.mission[ids], return_inverse=True)
        states = len(TaskState)
        left = np.bincount(row * states + self.state[ids], minlength=len(missions) * states).reshape(-1, states)
        for mission, leaving in zip(missions.tolist(), left, strict=True):
            counts = self.missions[mission].counts
            counts -= leaving
            counts[state] += leaving.sum()
        self.state[ids] = state

    def _release(self, ids: Ids, at_s: float) -> Effects:
        self._move(ids, TaskState.READY)
        self.ready_s[ids] = at_s
        return Effects(ready=ids)

    def _reopen(self, ids: Ids) -> None:
        for mission in np.unique(self.mission[ids]):
            self.missions[mission].ended_s, self.missions[mission].told = None, False

    def _end(self, ids: Ids, state: TaskState, at_s: float) -> Effects:
        """These tasks are over; whoever needed them becomes ready, or ends with them."""
        if not len(ids):
            return Effects()
        self._move(ids, state)
        self.ended_s[ids] = at_s
        effects = self._satisfy(self._after(ids), at_s) if state.satisfies else self._strand(ids, state, at_s)
        ended = np.concatenate([ids, effects.ended])
        return Effects(ready=effects.ready, ended=ended, missions=self._missions_ended(ended, at_s))

    def _satisfy(self, after: Ids, at_s: float) -> Effects:
        if not len(after):
            return Effects()
        np.subtract.at(self.waits, after, 1)
        candidates = np.unique(after)
        free = candidates[(self.waits[candidates] == 0) & (self.state[candidates] == TaskState.WAITING)]
        return self._release(free, at_s)

    def _strand(self, ids: Ids, state: TaskState, at_s: float) -> Effects:
        """Nothing that needs a failed or cancelled task can go on."""
        all_ended = [_NONE]
        word = "failed" if state is TaskState.FAILED else "was cancelled"
        while len(ids):
            causes, after = self._edges(ids)
            open_ = self.state[after] < TaskState.DONE
            stranded, first = np.unique(after[open_], return_index=True)
            for task, cause in zip(stranded.tolist(), causes[open_][first].tolist(), strict=True):
                self.reasons[task] = f"needs {self.name(cause)}, which {word}"
            self._move(stranded, state)
            self.ended_s[stranded] = at_s
            all_ended.append(stranded)
            ids = stranded
        return Effects(ended=np.concatenate(all_ended))

    def _missions_ended(self, ids: Ids, at_s: float) -> tuple[str, ...]:
        over = []
        for mission in np.unique(self.mission[ids]):
            record = self.missions[mission]
            if record.ended_s is None and record.state is not MissionState.RUNNING:
                record.ended_s = at_s
                over.append(record.id)
        return tuple(over)

    # ── the graph ────────────────────────────────────────────────────────────

    def _segment(self, task: int) -> _Segment:
        low, high = 0, len(self.segments)
        while low < high:
            middle = (low + high) // 2
            if self.segments[middle].last <= task:
                low = middle + 1
            else:
                high = middle
        if low == len(self.segments) or task < 0:
            raise NotFound(f"no task {task}")
        return self.segments[low]

    def _after(self, ids: Ids) -> Ids:
        """Everyone who directly needs one of these, once per edge."""
        return self._edges(ids)[1]

    def _edges(self, ids: Ids) -> tuple[Ids, Ids]:
        """The edges that leave these: who is needed, and who needs it."""
        needed, needing = [_NONE], [_NONE]
        for segment in self._segments_of(ids):
            own = ids[(ids >= segment.first) & (ids < segment.last)]
            starts, ends = segment.after_start[own - segment.first], segment.after_start[own - segment.first + 1]
            needed.append(np.repeat(own, ends - starts))
            needing.append(segment.after[_spans(starts, ends)].astype(np.int64))
        for task in ids.tolist() if self.more_after else ():
            if more := self.more_after.get(task):
                needed.append(np.full(len(more), task, np.int64))
                needing.append(np.array(more, np.int64))
        return np.concatenate(needed), np.concatenate(needing)

    def _segments_of(self, ids: Ids) -> Iterator[_Segment]:
        """Those that hold one of these and have edges; few ids are looked up, many are met by walking all."""
        if len(ids) < len(self.segments):
            found: Iterable[_Segment] = {id(one): one for one in map(self._segment, ids.tolist())}.values()
        else:
            found = self.segments
        return (segment for segment in found if segment.after.size)


def _rows(rows: NDArray[np.int32], values: NDArray[np.int32], count: int, first: int) -> tuple[Any, Any]:
    """Edges as compressed sparse rows: the values of row r are `flat[start[r]:start[r+1]]`, as global ids."""
    order = np.argsort(rows, kind="stable")
    start = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=count), out=start[1:])
    return start, (values[order] + first).astype(np.int32)


def _spans(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every index of the half-open ranges [starts[i], ends[i]), without a Python loop."""
    lengths = ends - starts
    total = int(lengths.sum())
    if not total:
        return _NONE
    offsets = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return offsets + np.arange(total)


def _joined(one: Effects, two: Effects) -> Effects:
    return Effects(
        np.concatenate([one.ready, two.ready]),
        np.concatenate([one.stop, two.stop]),
        np.concatenate([one.repair, two.repair]),
        np.concatenate([one.ended, two.ended]),
        one.missions + two.missions,
    )


def _checked_names(columns: ev.TaskColumns, shapes: int, taken: Sequence[str] | Mapping[str, int]) -> list[str]:
    """The names of new tasks, once the columns are known to be sound."""
    count = len(columns.shape)
    sizes = {len(columns.names), len(columns.priority), len(columns.deadline_s), len(columns.retries), count}
    if len(sizes) != 1:
        raise IllegalEvent(f"task columns differ in length: {sorted(sizes)}")
    if columns.arguments is not None and len(columns.arguments) != count:
        raise IllegalEvent(f"{count} tasks come with {len(columns.arguments)} arguments")
    if any(not 0 <= row < count for row in (*columns.fallback, *columns.device)):
        raise IllegalEvent("a fallback or a device is given for a task that the event does not hold")
    if count and (int(columns.shape.min()) < 0 or int(columns.shape.max()) >= shapes):
        raise IllegalEvent("a task has a shape that the event does not hold")
    edges = np.concatenate([columns.heads, columns.tails])
    if len(columns.heads) != len(columns.tails) or (len(edges) and (int(edges.min()) < 0 or int(edges.max()) >= count)):
        raise IllegalEvent("an edge leaves the tasks of its event")
    try:
        names = [name.decode() for name in columns.names]
    except UnicodeDecodeError as error:
        raise IllegalEvent(f"a task's name is not UTF-8: {error.object!r}") from error
    if len(set(names)) != count:
        raise IllegalEvent("two tasks of a mission have the same name")
    clash = next((name for name in names if name in taken), None)
    if clash is not None:
        raise IllegalEvent(f"the mission already has a task {clash}")
    if _has_cycle(columns, count):
        raise IllegalEvent("tasks need each other in a circle")
    return names


def _has_cycle(columns: ev.TaskColumns, count: int) -> bool:
    """Kahn's algorithm (1962) in waves, so that a wide graph costs few numpy calls."""
    waits = np.bincount(columns.heads, minlength=count)
    start, after = _rows(columns.tails, columns.heads, count, 0)
    wave, seen = np.flatnonzero(waits == 0), 0
    while len(wave):
        seen += len(wave)
        following = after[_spans(start[wave], start[wave + 1])]
        np.subtract.at(waits, following, 1)
        candidates = np.unique(following)
        wave = candidates[waits[candidates] == 0]
    return seen != count
