"""The state machine again, one small object per task: slow, obvious, and compared with `core.machine` by tests.

It takes the same events and says the same effects, but keeps a graph of plain Python sets and walks it task by
task. Where the two differ, one of them is wrong, and this one can be read in five minutes. It checks what the column
machine checks; an event it refuses raises `IllegalEvent` before anything changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from qaios.core import events as ev
from qaios.core.errors import IllegalEvent
from qaios.core.values import MissionState, Rung, TaskState

LIVE = (TaskState.READY, TaskState.RUNNING, TaskState.CANCELLING, TaskState.REPAIRING)


@dataclass(eq=False)
class RefTask:
    """One task: where it is, whom it needs, who needs it."""

    id: int
    mission: str
    name: str
    action: str
    fallback: str = ""
    state: TaskState = TaskState.WAITING
    needs: list[RefTask] = field(default_factory=list)
    after: list[RefTask] = field(default_factory=list)
    attempts: int = 0
    tries: int = 0
    excluded: frozenset[str] = frozenset()
    result: bytes | None = None


@dataclass
class RefEffects:
    ready: set[int] = field(default_factory=set)
    stop: set[int] = field(default_factory=set)
    repair: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    missions: set[str] = field(default_factory=set)


class ReferenceMachine:
    """The rules, once more. `tasks` by id; `told` are the missions whose end was reported and still holds."""

    def __init__(self) -> None:
        self.tasks: list[RefTask] = []
        self.keys: set[str] = set()
        self.missions: dict[str, list[RefTask]] = {}
        self.told: set[str] = set()
        self.epoch = 0
        self.halted: set[str] = set()

    def apply(self, event: ev.Event) -> RefEffects:
        """The effects of one event, by the kind of thing it speaks of. Raises `IllegalEvent`."""
        self.effects = RefEffects()
        match event:
            case ev.MissionSubmitted() | ev.TasksAdded() | ev.MissionEnded():
                self._apply_to_missions(event)
            case ev.KernelBooted():
                self._require(event.epoch > self.epoch, "an older epoch")
                self.epoch = event.epoch
            case ev.DeviceChanged():
                (self.halted.add if event.state == "halted" else self.halted.discard)(event.device)
            case ev.Halted():
                self.halted |= set(event.devices)
            case ev.UnknownResolved() | ev.RepairRefused() | ev.TasksRerouted() | ev.CancelAsked():
                self._apply_to_tasks(event)
            case ev.DeadlineMissed():
                self._in(event.ids, *TaskState)
            case _:
                self._apply_to_attempts(event)
        self._tell_missions()
        return self.effects

    def _apply_to_missions(self, event: ev.MissionSubmitted | ev.TasksAdded | ev.MissionEnded) -> None:
        match event:
            case ev.MissionSubmitted():
                self._require(event.mission not in self.missions, "a mission twice")
                self._require(not event.key or event.key not in self.keys, "a key twice")
                self._require(len(event.tasks.shape) > 0, "a mission without tasks")
                self._check_graph(event.tasks, len(event.shapes), set())
                self.missions[event.mission] = []
                self.keys.add(event.key)
                self._free(self._add(event.mission, event.tasks, [shape.action for shape in event.shapes]))
            case ev.TasksAdded():
                self._added(event)
            case ev.MissionEnded():
                self._require(event.mission in self.told, "a mission that has not ended")

    def _apply_to_attempts(self, event: ev.Event) -> None:
        """What came of tasks that were placed; an event that is none of these concerns no state here."""
        match event:
            case ev.TasksPlaced():
                self._placed(event)
            case ev.TasksFinished():
                tasks = self._in(event.ids, TaskState.RUNNING, TaskState.CANCELLING)
                self._require(len(event.results) == len(tasks), "too few results")
                for task, blob in zip(tasks, event.results, strict=True):
                    task.result = blob
                self._end(tasks, TaskState.DONE)
            case ev.AttemptsFailed():
                self._failed(event)
            case ev.AttemptsLost():
                tasks = self._in(event.ids, TaskState.RUNNING, TaskState.CANCELLING)
                stopped = [task for task in tasks if task.state is TaskState.CANCELLING]
                for task in tasks:
                    if task.state is TaskState.RUNNING:
                        task.tries -= 1
                        self._ready(task)
                self._end(stopped, TaskState.CANCELLED)
            case ev.AttemptsUnknown():
                for task in self._in(event.ids, TaskState.RUNNING, TaskState.CANCELLING):
                    task.state = TaskState.UNKNOWN
            case ev.TasksCancelled():
                self._end(self._in(event.ids, TaskState.CANCELLING), TaskState.CANCELLED)
            case ev.ChunkEmitted():
                self._require(0 <= event.id < len(self.tasks), "no such task")

    def _apply_to_tasks(self, event: ev.UnknownResolved | ev.RepairRefused | ev.TasksRerouted | ev.CancelAsked) -> None:
        """What people and planners decided about tasks."""
        match event:
            case ev.UnknownResolved():
                tasks = self._in(event.ids, TaskState.UNKNOWN)
                self.told -= {task.mission for task in tasks}
                if event.happened:
                    self._end(tasks, TaskState.DONE)
                else:
                    for task in tasks:
                        self._ready(task)
            case ev.RepairRefused():
                self._end(self._in(event.ids, TaskState.REPAIRING), TaskState.FAILED)
            case ev.TasksRerouted():
                self._rerouted(event)
            case ev.CancelAsked():
                live = [task for task in self._in(event.ids, *TaskState) if not task.state.ended]
                self.told -= {task.mission for task in live}
                for task in live:
                    if task.state is TaskState.RUNNING:
                        task.state = TaskState.CANCELLING
                        self.effects.stop.add(task.id)
                self._end([task for task in live if task.state is not TaskState.CANCELLING], TaskState.CANCELLED)

    # ── what views ask ──

    def counts(self, mission: str) -> Counter[TaskState]:
        return Counter(task.state for task in self.missions[mission])

    def mission_state(self, mission: str) -> MissionState:
        states = {task.state for task in self.missions[mission]}
        if states & set(LIVE):
            return MissionState.RUNNING
        for state, means in (
            (TaskState.UNKNOWN, MissionState.STUCK),
            (TaskState.FAILED, MissionState.FAILED),
            (TaskState.CANCELLED, MissionState.CANCELLED),
        ):
            if state in states:
                return means
        return MissionState.DONE

    # ── the rules that take more than a line ──

    def _placed(self, event: ev.TasksPlaced) -> None:
        tasks = self._in(event.ids, TaskState.READY)
        for column, table in ((event.device, event.devices), (event.decision, event.decisions)):
            self._require(len(column) == len(tasks), "a column too short")
            self._require(all(int(row) < len(table) for row in column), "a row beyond its table")
        self._require(len(event.effectful) == len(tasks), "a column too short")
        for task in tasks:
            task.state, task.attempts, task.tries = TaskState.RUNNING, task.attempts + 1, task.tries + 1

    def _added(self, event: ev.TasksAdded) -> None:
        states = (TaskState.REPAIRING,) if event.repairs else (TaskState.RUNNING, TaskState.DONE)
        (parent,) = self._in([event.parent], *states)
        names = {task.name for task in self.missions[parent.mission]}
        self._check_graph(event.tasks, len(event.shapes), names)
        joining = [task for task in parent.after if task.state not in (TaskState.FAILED, TaskState.CANCELLED)]
        self._require(all(task.state is TaskState.WAITING for task in joining), "a dependent that has begun")
        self.told.discard(parent.mission)
        new = self._add(parent.mission, event.tasks, [shape.action for shape in event.shapes])
        for child in new:
            for dependent in joining:
                self._edge(dependent, child)
        self._free(new)
        if event.repairs:
            self._end([parent], TaskState.REPAIRED)

    def _failed(self, event: ev.AttemptsFailed) -> None:
        tasks = self._in(event.ids, TaskState.RUNNING, TaskState.CANCELLING)
        cancelling = any(task.state is TaskState.CANCELLING for task in tasks)
        self._require(not cancelling or event.rung is Rung.FAIL, "another try of what is being cancelled")
        self._require(event.rung is not Rung.FALLBACK or all(task.fallback for task in tasks), "no fallback")
        match event.rung:
            case Rung.FAIL:
                self._end(tasks, TaskState.FAILED)
            case Rung.REPAIR:
                self._ask_planner(tasks)
            case rung:
                for task in tasks:
                    if rung is Rung.ELSEWHERE:
                        task.excluded, task.tries = task.excluded | {event.device}, 0
                    elif rung is Rung.FALLBACK:
                        self._fall_back(task)
                    self._ready(task)

    def _rerouted(self, event: ev.TasksRerouted) -> None:
        tasks = self._in(event.ids, TaskState.READY)
        self._require(not event.fallback or all(task.fallback for task in tasks), "no fallback")
        if event.fallback:
            for task in tasks:
                self._fall_back(task)
                self._ready(task)
        elif event.repair:
            self._ask_planner(tasks)
        else:
            self._end(tasks, TaskState.FAILED)

    def _ask_planner(self, tasks: Iterable[RefTask]) -> None:
        for task in tasks:
            task.state = TaskState.REPAIRING
            self.effects.repair.add(task.id)

    @staticmethod
    def _fall_back(task: RefTask) -> None:
        task.action, task.fallback, task.excluded, task.tries = task.fallback, "", frozenset(), 0

    def _ready(self, task: RefTask) -> None:
        task.state = TaskState.READY
        self.effects.ready.add(task.id)

    def _free(self, tasks: Iterable[RefTask]) -> None:
        """Whoever waits for nothing any more is ready."""
        for task in tasks:
            if task.state is TaskState.WAITING and all(need.state.satisfies for need in task.needs):
                self._ready(task)

    def _end(self, tasks: Iterable[RefTask], state: TaskState) -> None:
        ending = list(tasks)
        for task in ending:
            task.state = state
            self.effects.ended.add(task.id)
        for task in ending:
            if state.satisfies:
                self._free(task.after)
            else:
                self._end([one for one in task.after if not one.state.ended], state)

    def _tell_missions(self) -> None:
        for mission in self.missions:
            if mission not in self.told and self.mission_state(mission) is not MissionState.RUNNING:
                self.told.add(mission)
                self.effects.missions.add(mission)

    # ── the graph ──

    def _add(self, mission: str, columns: ev.TaskColumns, actions: list[str]) -> list[RefTask]:
        first = len(self.tasks)
        new = [
            RefTask(first + row, mission, name.decode(), actions[columns.shape[row]], columns.fallback.get(row, ""))
            for row, name in enumerate(columns.names)
        ]
        for head, tail in zip(columns.heads, columns.tails, strict=True):
            self._edge(new[head], new[tail])
        self.tasks += new
        self.missions[mission] += new
        return new

    @staticmethod
    def _edge(task: RefTask, need: RefTask) -> None:
        task.needs.append(need)
        need.after.append(task)

    def _in(self, ids: Iterable[int], *states: TaskState) -> list[RefTask]:
        listed = [int(one) for one in ids]
        self._require(all(0 <= one < len(self.tasks) for one in listed), "no such task")
        self._require(len(set(listed)) == len(listed), "a task twice")
        self._require(all(self.tasks[one].state in states for one in listed), "another state")
        return [self.tasks[one] for one in listed]

    def _check_graph(self, columns: ev.TaskColumns, shapes: int, taken: set[str]) -> None:
        count = len(columns.shape)
        lengths = {len(columns.names), len(columns.priority), len(columns.deadline_s), len(columns.retries), count}
        self._require(len(lengths) == 1, "columns of unequal length")
        self._require(all(0 <= shape < shapes for shape in columns.shape), "no such shape")
        names = [name.decode() for name in columns.names]
        self._require(len(set(names)) == count and not set(names) & taken, "a name twice")
        self._require(len(columns.heads) == len(columns.tails), "half an edge")
        self._require(all(0 <= row < count for row in (*columns.heads, *columns.tails)), "an edge to nowhere")
        needs: dict[int, set[int]] = {row: set() for row in range(count)}
        for head, tail in zip(columns.heads, columns.tails, strict=True):
            needs[int(head)].add(int(tail))
        while free := [row for row, left in needs.items() if not left]:
            for row in free:
                del needs[row]
            for left in needs.values():
                left -= set(free)
        self._require(not needs, "a circle")

    @staticmethod
    def _require(holds: bool, otherwise: str) -> None:
        if not holds:
            raise IllegalEvent(otherwise)
