"""The column machine and the reference machine are the same machine, whatever happens to them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from qaios.core import events as ev
from qaios.core.errors import IllegalEvent
from qaios.core.machine import Machine
from qaios.core.values import DeviceState, MissionState, Rung, TaskState
from qaios.testing.reference import ReferenceMachine

from .graphs import added, fingerprint, finished, placed, submitted

LIVE = (TaskState.READY, TaskState.RUNNING, TaskState.CANCELLING, TaskState.REPAIRING)


@st.composite
def edges(draw: st.DrawFn, count: int, *, circles: bool = False) -> list[tuple[int, int]]:
    """Mostly a graph that can run; sometimes with circles and edges given twice."""
    rows = st.integers(0, count - 1)
    found = draw(st.lists(st.tuples(rows, rows), max_size=2 * count))
    return found if circles else [(max(pair), min(pair)) for pair in found if pair[0] != pair[1]]


class Agreement(RuleBasedStateMachine):
    """Every rule makes one event; `share` picks tasks mostly in the state it wants, and now and then not."""

    def __init__(self) -> None:
        super().__init__()
        self.machine, self.reference = Machine(), ReferenceMachine()
        self.journal: list[ev.Event] = []
        self.made = 0

    def give(self, event: ev.Event) -> None:
        before = fingerprint(self.machine)
        try:
            expected = self.reference.apply(event)
        except IllegalEvent as refusal:
            with pytest.raises(IllegalEvent):
                self.machine.apply(event)
            assert fingerprint(self.machine) == before, f"a refused event ({refusal}) changed the machine"
            return
        effects = self.machine.apply(event)
        self.journal.append(event)
        for name in ("ready", "stop", "repair", "ended"):
            found = getattr(effects, name).tolist()
            assert len(found) == len(set(found)), f"{name} names a task twice"
            assert set(found) == getattr(expected, name), name
        assert len(effects.missions) == len(set(effects.missions))
        assert set(effects.missions) == expected.missions

    def share(self, data: st.DataObject, *states: TaskState, most: int = 4) -> list[int]:
        fitting = self.machine.in_state(*states).tolist()
        astray = data.draw(st.integers(0, 19)) == 0
        pool = list(range(-1, self.machine.count + 1)) if astray or not fitting else fitting
        return data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=most, unique=not astray))

    def fresh(self, count: int) -> list[str]:
        self.made += count
        return [f"t{number}" for number in range(self.made - count, self.made)]

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.give(ev.KernelBooted(at_s=0.0, epoch=1, node="n", version=""))
        self.submit(data)

    @rule(data=st.data())
    def submit(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, 6))
        names = self.fresh(count)
        clumsy = data.draw(st.integers(0, 9)) == 0
        found = data.draw(edges(count, circles=clumsy))
        if clumsy and data.draw(st.booleans()):
            names[-1] = names[0]
        fallback = {row: "test.other" for row in range(count) if data.draw(st.booleans())}
        number = len(self.machine.missions) if clumsy else len(self.machine.missions) + 1
        self.give(submitted(names, found, mission=f"m-{number}", fallback=fallback))

    @rule(data=st.data())
    def place(self, data: st.DataObject) -> None:
        ids = self.share(data, TaskState.READY, most=8)
        self.give(placed(*ids, device=data.draw(st.sampled_from("ab")), effectful=data.draw(st.booleans())))

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        ids = self.share(data, TaskState.RUNNING, TaskState.CANCELLING, most=8)
        missing = data.draw(st.integers(0, 19)) == 0
        self.give(finished(*ids, results=[b"\x80"] * (len(ids) - missing)))

    @rule(data=st.data(), rung=st.sampled_from(Rung))
    def fail(self, data: st.DataObject, rung: Rung) -> None:
        ids = np.array(self.share(data, TaskState.RUNNING, TaskState.CANCELLING), np.int64)
        self.give(ev.AttemptsFailed(at_s=5.0, ids=ids, device="a", reason="it broke", rung=rung))

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        ids = np.array(self.share(data, TaskState.RUNNING, TaskState.CANCELLING), np.int64)
        self.give(ev.AttemptsLost(at_s=5.0, ids=ids, reason="the kernel died"))

    @rule(data=st.data())
    def doubt(self, data: st.DataObject) -> None:
        ids = np.array(self.share(data, TaskState.RUNNING, TaskState.CANCELLING), np.int64)
        self.give(ev.AttemptsUnknown(at_s=5.0, ids=ids, device="a", reason="silence"))

    @rule(data=st.data(), happened=st.booleans())
    def resolve(self, data: st.DataObject, happened: bool) -> None:
        ids = np.array(self.share(data, TaskState.UNKNOWN), np.int64)
        self.give(ev.UnknownResolved(at_s=6.0, ids=ids, happened=happened, by="me"))

    @rule(data=st.data())
    def ask_to_cancel(self, data: st.DataObject) -> None:
        ids = self.share(data, *TaskState, most=6)
        self.give(ev.CancelAsked(at_s=6.0, ids=np.array(ids, np.int64), by="me"))

    @rule(data=st.data())
    def confirm_cancel(self, data: st.DataObject) -> None:
        ids = np.array(self.share(data, TaskState.CANCELLING), np.int64)
        self.give(ev.TasksCancelled(at_s=6.0, ids=ids))

    @rule(data=st.data())
    def spawn(self, data: st.DataObject) -> None:
        self.add(data, False, TaskState.RUNNING, TaskState.DONE)

    @rule(data=st.data())
    def repair(self, data: st.DataObject) -> None:
        self.add(data, True, TaskState.REPAIRING)

    def add(self, data: st.DataObject, repairs: bool, *states: TaskState) -> None:
        count = data.draw(st.integers(0, 3))
        names = self.fresh(count)
        if count and data.draw(st.integers(0, 9)) == 0:
            names[0] = "t0"
        found = data.draw(edges(count)) if count else []
        self.give(added(self.share(data, *states, most=1)[0], names, found, repairs=repairs))

    @rule(data=st.data())
    def refuse_repair(self, data: st.DataObject) -> None:
        ids = np.array(self.share(data, TaskState.REPAIRING), np.int64)
        self.give(ev.RepairRefused(at_s=6.0, ids=ids, reason="no way"))

    @rule(data=st.data(), fallback=st.booleans(), repair=st.booleans())
    def reroute(self, data: st.DataObject, fallback: bool, repair: bool) -> None:
        ids = np.array(self.share(data, TaskState.READY), np.int64)
        self.give(ev.TasksRerouted(at_s=6.0, ids=ids, reason="no device", fallback=fallback, repair=repair))

    @rule(data=st.data())
    def tell_of_an_end(self, data: st.DataObject) -> None:
        mission = data.draw(st.sampled_from([*self.reference.missions, "m-nowhere"]))
        state = self.reference.mission_state(mission) if mission in self.reference.missions else MissionState.DONE
        self.give(ev.MissionEnded(at_s=7.0, mission=mission, state=state))

    @rule(data=st.data(), epoch=st.integers(1, 4))
    def note(self, data: st.DataObject, epoch: int) -> None:
        task = data.draw(st.integers(-1, self.machine.count))
        self.give(
            data.draw(
                st.sampled_from(
                    [
                        ev.ChunkEmitted(at_s=7.0, id=task, chunk=b"\x01"),
                        ev.DeadlineMissed(at_s=7.0, ids=ev.ids_of(task)),
                        ev.DeviceChanged(at_s=7.0, device="a", state=DeviceState.HALTED),
                        ev.DeviceChanged(at_s=7.0, device="a", state=DeviceState.IDLE),
                        ev.Halted(at_s=7.0, devices=("a", "b"), by="me"),
                        ev.KernelBooted(at_s=7.0, epoch=epoch, node="other", version=""),
                    ]
                )
            )
        )

    @invariant()
    def tasks_are_where_the_reference_has_them(self) -> None:
        machine, tasks = self.machine, self.reference.tasks
        assert machine.count == len(tasks)
        assert machine.state[: machine.count].tolist() == [int(task.state) for task in tasks]
        assert machine.tries[: machine.count].tolist() == [task.tries for task in tasks]
        assert machine.attempts[: machine.count].tolist() == [task.attempts for task in tasks]
        for task in tasks:
            assert machine.name(task.id) == task.name
            assert machine.result_blob(task.id) == task.result or task.state is TaskState.DONE
            assert machine.shapes[machine.shape[task.id]].action == task.action
            assert machine.excluded.get(task.id, frozenset()) == task.excluded
            assert sorted(machine.needs(task.id).tolist()) == sorted(need.id for need in task.needs)
            assert sorted(machine.dependents(task.id).tolist()) == sorted(one.id for one in task.after)

    @invariant()
    def counts_are_conserved_and_missions_end_when_they_should(self) -> None:
        for record in self.machine.missions:
            own = self.machine.tasks_of(record)
            assert record.counts.sum() == len(own) == len(record.names)
            assert dict(self.reference.counts(record.id)) == {
                state: int(record.counts[state]) for state in TaskState if record.counts[state]
            }
            assert record.state == self.reference.mission_state(record.id)
            assert (record.ended_s is not None) == (record.id in self.reference.told)
            assert (record.ended_s is not None) == (record.state is not MissionState.RUNNING)
        assert self.machine.halted == self.reference.halted

    @invariant()
    def only_what_can_go_on_is_ready_and_nothing_that_can_is_forgotten(self) -> None:
        for task in self.reference.tasks:
            free = all(need.state.satisfies for need in task.needs)
            assert task.state is not TaskState.WAITING or not free
            assert task.state not in LIVE or free

    def teardown(self) -> None:
        replayed = Machine()
        for event in self.journal:
            for decoded in ev.decode_events(ev.encode_events([event])):
                replayed.apply(decoded)
        assert fingerprint(replayed) == fingerprint(self.machine), "replay built another machine"


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    # A failing run is long enough to read as it is; shrinking it would take minutes.
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
