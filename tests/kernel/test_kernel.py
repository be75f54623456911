"""A mission from its submission to its end: the kernel with a scripted device and a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar, cast

import msgspec
import numpy as np
import pytest

from qaios.contracts import Attempt, Berth
from qaios.core import events as ev
from qaios.core.errors import (
    DeviceFault,
    IllegalEvent,
    Invalid,
    JournalBroken,
    NotFound,
    OutcomeUnknown,
    Refused,
)
from qaios.core.values import (
    ActionSpec,
    Batch,
    BatchOutcome,
    DeviceState,
    DeviceStatus,
    Effect,
    Estimate,
    MissionState,
    Result,
    Rung,
    Shape,
    Task,
    TaskSpec,
    TaskState,
)
from qaios.kernel.kernel import NewMission
from qaios.testing.clock import FakeClock
from qaios.testing.memory import MemoryJournal
from qaios.testing.scripted import ACT, COMPUTE, ScriptedDevice, Step

from .bench import act, bench, compute

FLY = ActionSpec(
    "test.fly", "An effect that a planner can repair.", effect=Effect.EFFECTFUL, parameters={"legs": "a list"}
)
SPARE = ActionSpec("test.spare", "What is done instead.", parameters={"amount": "a number"})


class LegPlanner:
    """Repairs `test.fly`: one task for the legs that were not flown."""

    name: ClassVar[str] = "legs"
    actions: ClassVar[frozenset[str]] = frozenset({"test.fly"})

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[TaskSpec] = []

    async def repair(
        self, lost: TaskSpec, chunks: Sequence[Mapping[str, Any]], fleet: Sequence[Berth], random: Random
    ) -> Sequence[TaskSpec]:
        self.asked.append(lost)
        if self.error is not None:
            raise self.error
        flown = {chunk["leg"] for chunk in chunks}
        left = [leg for leg in lost.arguments["legs"] if leg not in flown]
        if not left:
            return ()
        return [TaskSpec(name=f"{lost.name}-rest", action="test.fly", arguments={"legs": left})]


# ── a mission that goes well ─────────────────────────────────────────────────


async def test_tasks_run_in_the_order_of_their_needs_and_bring_their_values() -> None:
    clock = FakeClock()
    device = ScriptedDevice(clock, script={"a": [Step(duration_s=1.0, value={"n": 2})], "b": [Step(value="b")]})
    async with bench(device, clock=clock) as node:
        await node.done(act("b", needs=("a",)), act("a"))
        assert node.states() == {"b": "DONE", "a": "DONE"}
        assert device.order == ["a", "b"]
        assert (node.value("a"), node.value("b")) == ({"n": 2}, "b")
        assert node.kernel.machine.record("m-1").state is MissionState.DONE


async def test_references_become_the_values_of_what_a_task_needs() -> None:
    clock = FakeClock()
    seen: dict[str, Any] = {}

    class Watching(ScriptedDevice):
        async def execute(self, task: Task, attempt: Attempt) -> Result:
            seen[task.name] = task.arguments
            return await super().execute(task, attempt)

    device = Watching(clock, script={"a": [Step(value={"n": 2})]})
    async with bench(device, clock=clock) as node:
        await node.done(act("a"), act("b", needs=("a",), arguments={"amount": "${a.n}"}))
    assert seen["b"] == {"amount": 2}


@pytest.mark.parametrize(
    ("arguments", "needs", "says"),
    [
        ({"amount": "${a.weight}"}, ("a",), "there is no 'weight'"),
        ({"amount": "${nobody}"}, (), "nobody, which is no task of this mission"),
        ({"amount": "${late}"}, (), "late, which has no result: it is "),
    ],
)
async def test_a_reference_that_cannot_be_resolved_fails_its_task_and_says_why(
    arguments: dict[str, str], needs: tuple[str, ...], says: str
) -> None:
    clock = FakeClock()
    device = ScriptedDevice(clock, script={"a": [Step(value={"n": 2})]})
    async with bench(device, clock=clock) as node:
        mission = await node.submit(
            act("a"), act("b", needs=needs, arguments=arguments), act("late", needs=("a",)), act("after", needs=("b",))
        )
        await node.through(mission)
        assert node.states() == {"a": "DONE", "b": "FAILED", "late": "DONE", "after": "FAILED"}
        assert says in node.reason("b")
        assert node.reason("after") == "needs b, which failed"
        assert "b" not in device.order
        await node.done(act("next"), name="still-alive")


async def test_tasks_that_a_result_spawns_are_waited_for_by_whoever_needs_it() -> None:
    clock = FakeClock()

    class Summing(ScriptedDevice):
        async def execute(self, task: Task, attempt: Attempt) -> Result:
            return Result(sum(task.arguments["parts"])) if task.name == "sum" else await super().execute(task, attempt)

    device = Summing(
        clock,
        script={
            "scan": [Step(spawn=(act("leg-2"), act("leg-1", needs=("leg-2",))))],
            "leg-1": [Step(duration_s=5.0, value={"n": 1})],
            "leg-2": [Step(duration_s=5.0, value={"n": 20})],
        },
    )
    async with bench(device, clock=clock) as node:
        await node.done(act("scan"), act("sum", needs=("scan",), arguments={"parts": "${scan.*.n}"}), act("other"))
        assert set(node.states().values()) == {"DONE"}
        assert node.value("sum") == 21


async def test_a_spawned_task_whose_name_is_taken_fails_its_parent_and_not_the_kernel() -> None:
    clock = FakeClock()
    device = ScriptedDevice(clock, script={"scan": [Step(spawn=(act("other"),))]})
    async with bench(device, clock=clock) as node:
        await node.done(act("scan"), act("other"))
        assert node.states() == {"scan": "FAILED", "other": "DONE"}
        assert "already has a task other" in node.reason("scan")


async def test_a_spawned_task_and_its_parents_end_are_one_block() -> None:
    clock, journal = FakeClock(), MemoryJournal()
    device = ScriptedDevice(clock, script={"scan": [Step(spawn=(act("leg"),))]})
    async with bench(device, clock=clock, journal=journal) as node:
        await node.done(act("scan"))
    blocks = [[type(event) for event in events] for _, events in journal.read()]
    assert [ev.TasksAdded, ev.TasksFinished] in blocks


async def test_the_deadline_of_a_spawned_task_counts_from_the_missions_submission() -> None:
    clock = FakeClock()
    script = {"scan": [Step(duration_s=30.0, spawn=(act("leg", deadline_s=100.0), act("late", deadline_s=900.0)))]}
    device = ScriptedDevice(clock, script=script)
    async with bench(device, clock=clock) as node:
        began_s = clock.now_s()
        await node.done(act("scan"), deadline_s=600.0)
        deadlines = node.kernel.machine.deadline_s
        assert deadlines[node.id("leg")] == began_s + 100.0
        assert deadlines[node.id("late")] == deadlines[node.id("scan")] == began_s + 600.0


async def test_urgent_tasks_go_first_on_a_device_that_takes_one_at_a_time() -> None:
    clock = FakeClock()
    device = ScriptedDevice(clock, default=Step(duration_s=1.0))
    async with bench(device, clock=clock) as node:
        await node.done(
            act("low", priority=9),
            act("soon", priority=5, deadline_s=50.0),
            act("top", priority=1),
            act("mid", priority=5),
        )
    assert device.order == ["top", "soon", "mid", "low"]
    assert device.peak == 1


async def test_a_task_remembers_which_device_it_waited_for_and_what_that_was_busy_with() -> None:
    clock = FakeClock()
    device = ScriptedDevice(clock, default=Step(duration_s=1.0))
    async with bench(device, clock=clock) as node:
        mission = await node.submit(act("first", priority=1), act("second", priority=2))
        await node.until("first", TaskState.RUNNING)
        await clock.settle()
        assert node.kernel.waiting[node.id("second")].candidates[0].device == "scripted"
        await node.through(mission)
        machine = node.kernel.machine
        waited = machine.decisions[machine.decision[node.id("second")]].waited_for
        assert "scripted, busy with first (priority 1)" in waited
        assert "scripted, which was opening" in waited
        assert not node.kernel.waiting


async def test_a_missed_deadline_is_an_event_and_does_not_stop_the_task() -> None:
    clock = FakeClock()
    device = ScriptedDevice(clock, default=Step(duration_s=10.0))
    async with bench(device, clock=clock) as node:
        await node.done(act("slow", deadline_s=3.0))
        missed = [event for event in node.events if isinstance(event, ev.DeadlineMissed)]
        assert [event.ids.tolist() for event in missed] == [[node.id("slow")]]
        assert node.state("slow") is TaskState.DONE


async def test_the_same_key_is_the_same_mission_and_is_acknowledged_only_when_durable() -> None:
    clock, journal = FakeClock(), MemoryJournal()
    async with bench(ScriptedDevice(clock), clock=clock, journal=journal) as node:
        journal.stall()
        first = asyncio.create_task(node.submit(act("a"), key="k"))
        await clock.settle()
        second = asyncio.create_task(node.submit(act("a"), key="k"))
        await clock.settle()
        assert not first.done() and not second.done()
        journal.flow()
        assert await first == await second == await node.submit(act("a"), key="k")
        assert len(node.kernel.machine.missions) == 1


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ([], "has no tasks"),
        ([act("a"), act("a")], "same name"),
        ([act("a", needs=("b",)), act("b", needs=("a",))], "circle"),
        ([act("a", needs=("c",))], "needs c"),
        ([act("a", retries=300)], "retries are 0..255"),
        ([act("a", priority=10**12)], "priority"),
        ([act("a", arguments={"amount": object()})], "plain data"),
    ],
)
async def test_a_mission_that_cannot_be_is_refused_and_leaves_nothing(tasks: list[TaskSpec], says: str) -> None:
    clock, journal = FakeClock(), MemoryJournal()
    async with bench(ScriptedDevice(clock), clock=clock, journal=journal) as node:
        before = len(journal.blocks)
        with pytest.raises(Invalid, match=says):
            await node.submit(*tasks)
        assert len(journal.blocks) == before
        assert not node.kernel.machine.missions
        await node.done(act("a"))


async def test_a_plan_tells_where_tasks_would_go_and_changes_nothing() -> None:
    clock, journal = FakeClock(), MemoryJournal()
    async with bench(ScriptedDevice(clock), clock=clock, journal=journal) as node:
        before = len(journal.blocks)
        placements, shapes = node.kernel.plan(NewMission(name="m", tasks=[act("a"), act("b", device="nowhere")]))
        assert [placement.device for placement in placements.placed] == ["scripted"]
        assert list(placements.impossible) == [1]
        assert shapes[0].action == "test.act"
        assert len(journal.blocks) == before


# ── the ladder ───────────────────────────────────────────────────────────────


async def test_a_failing_task_is_tried_again_after_a_growing_wait() -> None:
    clock = FakeClock()
    begun: list[float] = []

    class Watching(ScriptedDevice):
        async def execute(self, task: Task, attempt: Attempt) -> Result:
            begun.append(round(clock.now_s(), 3))
            return await super().execute(task, attempt)

    fault = Step(error=DeviceFault("no link"))
    device = Watching(clock, script={"a": [fault, fault, Step(value=1)]})
    async with bench(device, clock=clock) as node:
        await node.done(act("a"))
        assert np.diff(begun).tolist() == pytest.approx([0.25, 0.5], abs=0.01)
        assert node.history("a") == ["scripted: no link → retry"] * 2
        assert node.reason("a") == ""


async def test_the_next_device_is_asked_when_one_has_failed_often_enough() -> None:
    clock = FakeClock()
    bad = ScriptedDevice(clock, name="bad", default=Step(error=DeviceFault("no link")))
    good = ScriptedDevice(clock, name="good", estimate=Estimate(duration_s=50.0))
    async with bench(bad, good, clock=clock) as node:
        await node.done(act("a", retries=1))
        assert node.state("a") is TaskState.DONE
        assert node.kernel.machine.device_name(node.id("a")) == "good"
        assert node.history("a") == ["bad: no link → retry", "bad: no link → elsewhere"]


async def test_a_refused_task_goes_elsewhere_at_once() -> None:
    clock = FakeClock()
    bad = ScriptedDevice(clock, name="bad", default=Step(error=Refused("not today")))
    good = ScriptedDevice(clock, name="good", estimate=Estimate(duration_s=50.0))
    async with bench(bad, good, clock=clock) as node:
        await node.done(act("a"))
        assert node.history("a") == ["bad: not today → elsewhere"]


async def test_the_named_fallback_takes_over_and_stays_visible() -> None:
    clock = FakeClock()
    device = ScriptedDevice(
        clock, actions=(ACT, SPARE), script={"a": [Step(error=DeviceFault("no", retryable=False)), Step()]}
    )
    async with bench(device, clock=clock) as node:
        await node.done(act("a", fallback="test.spare"))
        machine = node.kernel.machine
        assert machine.fell_back[node.id("a")] == "test.act"
        assert machine.shapes[machine.shape[node.id("a")]].action == "test.spare"
        assert node.history("a") == ["scripted: no → fallback"]


async def test_the_fallback_takes_over_when_no_device_can_do_the_action() -> None:
    clock = FakeClock()
    device = ScriptedDevice(clock, actions=(SPARE,))
    async with bench(device, clock=clock) as node:
        await node.done(act("a", fallback="test.spare"), act("b"), act("c"))
        assert node.states() == {"a": "DONE", "b": "FAILED", "c": "FAILED"}
        assert node.reason("b") == "no device of this fleet can do test.act: no device offers it"
        rerouted = [event.ids.tolist() for event in node.events if isinstance(event, ev.TasksRerouted)]
        assert rerouted == [[0], [1, 2]], "tasks with one fate are one event"


async def test_a_planner_repairs_only_what_a_lost_device_left_undone() -> None:
    clock = FakeClock()
    chunks = ({"leg": 1}, {"leg": 2})
    planner = LegPlanner()
    lost = ScriptedDevice(
        clock, name="d1", actions=(FLY,), script={"fly": [Step(chunks=chunks, duration_s=9.0)]},
    )  # fmt: skip
    spare = ScriptedDevice(clock, name="d2", actions=(FLY, ACT), estimate=Estimate(duration_s=50.0))
    async with bench(lost, spare, clock=clock, planners=[planner]) as node:
        spec = TaskSpec(name="fly", action="test.fly", arguments={"legs": [1, 2, 3]}, deadline_s=500.0)
        mission = await node.submit(spec, act("land", needs=("fly",)))
        await node.until("fly", TaskState.RUNNING)
        await clock.advance(1.0)
        lost.lose()
        await node.through(mission)
        assert node.states() == {"fly": "REPAIRED", "land": "DONE", "fly-rest": "DONE"}
        rest = node.kernel.machine.arguments(node.id("fly-rest"))
        assert rest == {"legs": [3]}
        assert planner.asked[0].deadline_s == pytest.approx(500.0)
        assert spare.order == ["fly-rest", "land"]


@pytest.mark.parametrize("error", [Refused("nobody is left"), ValueError("a mistake of the planner")])
async def test_a_planner_that_cannot_repair_fails_the_task_and_not_the_kernel(error: Exception) -> None:
    clock = FakeClock()
    device = ScriptedDevice(
        clock, actions=(FLY, ACT), script={"fly": [Step(error=DeviceFault("stuck", retryable=False))]}
    )
    async with bench(device, clock=clock, planners=[LegPlanner(error)]) as node:
        await node.done(TaskSpec(name="fly", action="test.fly"), act("b"))
        assert node.states() == {"fly": "FAILED", "b": "DONE"}
        assert str(error) in node.reason("fly")


async def test_repairs_of_repairs_come_to_an_end() -> None:
    clock = FakeClock()
    planner = LegPlanner()
    device = ScriptedDevice(clock, actions=(FLY,), default=Step(error=DeviceFault("stuck", retryable=False)))
    async with bench(device, clock=clock, planners=[planner]) as node:
        await node.done(TaskSpec(name="fly", action="test.fly", arguments={"legs": [1]}))
        assert len(planner.asked) == 8
        assert node.kernel.machine.record("m-1").state is MissionState.FAILED


async def test_an_effect_on_a_device_that_was_lost_is_never_run_elsewhere() -> None:
    clock = FakeClock()
    lost = ScriptedDevice(clock, name="d1", default=Step(hold=True))
    spare = ScriptedDevice(clock, name="d2", estimate=Estimate(duration_s=50.0))
    async with bench(lost, spare, clock=clock) as node:
        mission = await node.submit(act("upload", fallback="test.compute"), act("after", needs=("upload",)))
        await node.until("upload", TaskState.RUNNING)
        lost.lose()
        await node.through(mission)
        assert node.states() == {"upload": "UNKNOWN", "after": "WAITING"}
        assert "the effect may have happened" in node.reason("upload")
        assert node.kernel.machine.record(mission).state is MissionState.STUCK
        assert spare.order == []


async def test_a_replayable_task_on_a_lost_device_just_goes_elsewhere() -> None:
    clock = FakeClock()
    lost = ScriptedDevice(clock, name="d1", actions=(SPARE,), default=Step(hold=True))
    spare = ScriptedDevice(clock, name="d2", actions=(SPARE,), estimate=Estimate(duration_s=50.0))
    async with bench(lost, spare, clock=clock) as node:
        mission = await node.submit(TaskSpec(name="a", action="test.spare"))
        await node.until("a", TaskState.RUNNING)
        lost.lose()
        await node.through(mission)
        assert node.state("a") is TaskState.DONE
        assert spare.order == ["a"]


async def test_an_unknown_outcome_waits_for_a_person_and_goes_on_as_told() -> None:
    clock = FakeClock()
    doubt = Step(error=OutcomeUnknown("the line went dead"), effect_before_error=True)
    device = ScriptedDevice(clock, script={"a": [doubt], "b": [doubt, Step(value=7)]})
    async with bench(device, clock=clock) as node:
        mission = await node.submit(act("a"), act("b"), act("c", needs=("a", "b")))
        await node.through(mission)
        assert node.kernel.machine.record(mission).state is MissionState.STUCK
        await clock.advance(120.0)
        assert len(device.memory.effects) == 2, "an unknown effect is never run again by itself"
        await node.kernel.resolve(node.id("a"), happened=True, by="ada")
        await node.kernel.resolve(node.id("b"), happened=False, by="ada")
        await node.through(mission)
        assert node.states() == {"a": "DONE", "b": "DONE", "c": "DONE"}
        assert node.value("b") == 7
        with pytest.raises(IllegalEvent):
            await node.kernel.resolve(node.id("a"), happened=True, by="ada")


async def test_a_drivers_mistake_fails_a_replayable_task_with_its_place() -> None:
    clock = FakeClock()

    class Mistaken(ScriptedDevice):
        async def execute(self, task: Task, attempt: Attempt) -> Result:
            raise KeyError("altitude")

    device = Mistaken(clock, actions=(SPARE,))
    async with bench(device, clock=clock) as node:
        await node.done(TaskSpec(name="a", action="test.spare"))
        assert node.state("a") is TaskState.FAILED
        assert "KeyError: 'altitude' at execute" in node.reason("a")


async def test_after_a_drivers_mistake_the_device_is_asked_whether_the_effect_happened() -> None:
    clock = FakeClock()

    class Mistaken(ScriptedDevice):
        async def execute(self, task: Task, attempt: Attempt) -> Result:
            if task.name == "before":
                raise KeyError("nothing was done yet")
            await super().execute(task, attempt)
            if task.name == "silent":
                del self.memory.outcomes[attempt.key]
                self._once = None  # type: ignore[assignment]
            raise KeyError("after it was done")

    device = Mistaken(clock, default=Step(value=1))
    async with bench(device, clock=clock) as node:
        await node.done(act("before", priority=1), act("after", priority=2), act("silent", priority=3))
        assert node.states() == {"before": "FAILED", "after": "DONE", "silent": "UNKNOWN"}
        assert node.value("after") == 1


@pytest.mark.parametrize("result", [None, 7, Result(value=object()), Result(value={1: {2, 3}}, spawn=cast(Any, (7,)))])
async def test_a_result_that_is_none_fails_its_task_and_not_the_kernel(result: Any) -> None:
    clock = FakeClock()

    class Garbled(ScriptedDevice):
        async def execute(self, task: Task, attempt: Attempt) -> Result:
            return result if task.name == "a" else await super().execute(task, attempt)

    async with bench(Garbled(clock, actions=(SPARE,)), clock=clock) as node:
        await node.done(TaskSpec(name="a", action="test.spare"), TaskSpec(name="b", action="test.spare"))
        assert node.states() == {"a": "FAILED", "b": "DONE"}


# ── batches ──────────────────────────────────────────────────────────────────


async def test_tasks_of_one_shape_travel_together() -> None:
    clock = FakeClock()
    device = ScriptedDevice(clock, estimate=Estimate(duration_s=0.01), default=Step(value=3))
    async with bench(device, clock=clock) as node:
        await node.done(*(compute(f"t{number}") for number in range(100)))
        assert device.batches == [25] * 4
        assert {node.value(f"t{number}") for number in range(100)} == {3}


async def test_batches_of_two_missions_do_not_overrun_a_device() -> None:
    clock = FakeClock()
    device = ScriptedDevice(clock, estimate=Estimate(duration_s=0.001), default=Step(duration_s=1.0))
    async with bench(device, clock=clock) as node:
        await node.kernel.fleet.open(["scripted"])
        first = await node.submit(*(compute(f"t{number}") for number in range(5)))
        second = await node.submit(*(compute(f"t{number}") for number in range(5)), name="n")
        await node.through(first)
        await node.through(second)
        assert device.peak == 1
        assert sorted(device.batches) == [5, 5]
        assert set(node.states(first).values()) | set(node.states(second).values()) == {"DONE"}


class Rows(ScriptedDevice):
    """A batch device whose rows end as a test says."""

    def __init__(self, clock: FakeClock, rows: Mapping[int, Result | str] | Any) -> None:
        super().__init__(clock, estimate=Estimate(duration_s=0.001))
        self.rows = rows
        self.asked: list[Batch] = []

    async def execute_batch(self, batch: Batch, attempt: Attempt) -> BatchOutcome:
        self.asked.append(batch)
        if not isinstance(self.rows, Mapping):
            return self.rows  # type: ignore[no-any-return]
        ends = [self.rows.get(int(task), Result(1)) for task in batch.ids]
        failed = np.array([not isinstance(end, Result) for end in ends])
        return BatchOutcome(failed, tuple(msgspec.msgpack.encode(end) for end in ends))


async def test_a_failed_row_of_a_batch_fails_alone_and_a_spawning_row_spawns() -> None:
    clock = FakeClock()
    device = Rows(clock, {1: "division by zero", 2: "division by zero", 3: Result(5, spawn=(act("child"),))})
    async with bench(device, clock=clock) as node:
        await node.done(*(compute(f"t{number}", retries=0) for number in range(5)))
        assert node.states() == {
            "t0": "DONE", "t1": "FAILED", "t2": "FAILED", "t3": "DONE", "t4": "DONE", "child": "DONE",
        }  # fmt: skip
        assert node.value("t3") == 5
        failures = [event for event in node.events if isinstance(event, ev.AttemptsFailed)]
        assert [event.ids.tolist() for event in failures] == [[1, 2]]
        assert device.asked[0].arguments == (), "what is equal for all is said once"


async def test_a_refused_row_of_a_batch_is_not_tried_again_and_a_failed_one_is() -> None:
    clock = FakeClock()
    device = Rows(clock, {1: {"refused": "there is no module 'x' here"}, 2: "division by zero"})
    async with bench(device, clock=clock) as node:
        await node.done(*(compute(f"t{number}", retries=1) for number in range(4)))
        failures = [event for event in node.events if isinstance(event, ev.AttemptsFailed)]
        assert [event.reason for event in failures if 1 in event.ids] == ["there is no module 'x' here"]
        assert next(event.rung for event in failures if 2 in event.ids) is Rung.RETRY


@pytest.mark.parametrize(
    "garbage", [None, BatchOutcome(np.zeros(1, np.bool_), ()), BatchOutcome(np.ones(4, np.bool_), (b"\xc1",) * 4)]
)
async def test_a_malformed_batch_fails_its_tasks_and_not_the_kernel(garbage: Any) -> None:
    clock = FakeClock()
    async with bench(Rows(clock, garbage), clock=clock) as node:
        await node.done(*(compute(f"t{number}", retries=0) for number in range(4)), act("other"))
        assert node.states() == {**dict.fromkeys(("t0", "t1", "t2", "t3"), "FAILED"), "other": "DONE"}


# ── cancelling ───────────────────────────────────────────────────────────────


async def test_cancelling_reaches_a_task_in_every_state() -> None:
    clock = FakeClock()
    device = ScriptedDevice(clock, script={"running": [Step(duration_s=50.0)]})
    async with bench(device, clock=clock) as node:
        mission = await node.submit(
            act("done", priority=0),
            act("running", priority=1),
            act("ready", priority=2),
            act("waiting", needs=("running",)),
        )
        await node.until("running", TaskState.RUNNING)
        assert (node.state("ready"), node.state("waiting")) == (TaskState.READY, TaskState.WAITING)
        await node.kernel.cancel(mission, None, by="ada")
        await node.through(mission)
        assert node.states() == {"done": "DONE", "running": "CANCELLED", "ready": "CANCELLED", "waiting": "CANCELLED"}
        assert node.reason("running") == "cancelled by ada"
        assert device.stopped == ["running"]
        before = len(node.events)
        await node.kernel.cancel(mission, None, by="ada")
        assert len(node.events) == before, "there is nothing left to cancel"
        with pytest.raises(NotFound):
            await node.kernel.cancel(mission, "nobody", by="ada")
        await node.done(act("next"), name="after")


async def test_a_task_cancelled_while_its_placement_becomes_durable_never_reaches_the_device() -> None:
    clock, journal = FakeClock(), MemoryJournal()
    device = ScriptedDevice(clock)
    async with bench(device, clock=clock, journal=journal) as node:
        await node.kernel.fleet.open(["scripted"])
        mission = await node.submit(act("a"))
        journal.stall()
        await clock.settle()
        assert node.state("a") is TaskState.RUNNING
        cancelling = asyncio.create_task(node.kernel.cancel(mission, None, by="ada"))
        await clock.settle()
        journal.flow()
        await cancelling
        await node.through(mission)
        assert node.states() == {"a": "CANCELLED"}
        assert device.order == []
        await node.done(act("b"), name="the-place-is-free-again")


async def test_cancelling_right_after_the_start_still_ends_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """A carrier that is stopped before its first step has to say so all the same."""
    clock = FakeClock()
    device = ScriptedDevice(clock, default=Step(duration_s=9.0))
    async with bench(device, clock=clock) as node:
        await node.kernel.fleet.open(["scripted"])
        mission = await node.submit(act("a"))
        started = asyncio.Event()
        start = node.kernel._dispatch.start
        cancels: list[asyncio.Task[None]] = []

        def start_and_cancel(*arguments: Any) -> None:
            start(*arguments)
            node.kernel._dispatch.cancel(ev.ids_of(node.id("a")))
            cancels.append(asyncio.create_task(node.kernel.cancel(mission, None, by="ada")))
            started.set()

        monkeypatch.setattr(node.kernel._dispatch, "start", start_and_cancel)
        await started.wait()
        await node.through(mission)
        assert node.state("a") is TaskState.CANCELLED
        assert device.order == []


async def test_a_whole_batch_is_stopped_and_a_part_of_one_runs_on() -> None:
    clock = FakeClock()
    device = ScriptedDevice(clock, estimate=Estimate(duration_s=0.001), default=Step(duration_s=5.0))
    async with bench(device, clock=clock) as node:
        mission = await node.submit(*(compute(f"t{number}") for number in range(3)))
        await node.until("t0", TaskState.RUNNING)
        await node.kernel.cancel(mission, "t0", by="ada")
        assert node.state("t0") is TaskState.CANCELLING
        await node.through(mission)
        assert node.states() == dict.fromkeys(("t0", "t1", "t2"), "DONE"), "it could not be taken out"
        second = await node.submit(*(compute(f"t{number}") for number in range(3)), name="n")
        await node.until("t0", TaskState.RUNNING, second)
        await node.kernel.cancel(second, None, by="ada")
        await node.through(second)
        assert set(node.states(second).values()) == {"CANCELLED"}
        assert device.stopped == ["3 x test.compute"]


async def test_what_a_device_finished_before_it_heard_of_the_cancellation_is_done() -> None:
    clock = FakeClock()

    class Deaf(ScriptedDevice):
        async def execute(self, task: Task, attempt: Attempt) -> Result:
            try:
                return await super().execute(task, attempt)
            except asyncio.CancelledError:
                return Result("finished anyway")

    async with bench(Deaf(clock, default=Step(duration_s=5.0)), clock=clock) as node:
        mission = await node.submit(act("a"))
        await node.until("a", TaskState.RUNNING)
        await node.kernel.cancel(mission, None, by="ada")
        await node.through(mission)
        assert node.state("a") is TaskState.DONE
        assert node.value("a") == "finished anyway"
        assert node.reason("a") == ""


# ── devices that misbehave ───────────────────────────────────────────────────


async def test_a_device_that_cannot_say_what_a_task_costs_refuses_it() -> None:
    clock = FakeClock()

    class Mistaken(ScriptedDevice):
        def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
            raise ZeroDivisionError("no model")

    good = ScriptedDevice(clock, name="good", actions=(COMPUTE,))
    async with bench(Mistaken(clock), good, clock=clock) as node:
        await node.done(act("a"), compute("b"))
        assert node.states() == {"a": "FAILED", "b": "DONE"}
        assert "scripted: its driver failed to estimate: ZeroDivisionError: no model" in node.reason("a")


async def test_preparing_an_estimate_holds_up_only_the_tasks_that_need_it() -> None:
    clock = FakeClock()
    gate = asyncio.Event()

    class Slow(ScriptedDevice):
        async def prepare(self, shapes: Sequence[Shape]) -> None:
            await gate.wait()

    slow = Slow(clock, name="slow", actions=(ACT,))
    quick = ScriptedDevice(clock, name="quick", actions=(COMPUTE,))
    async with bench(slow, quick, clock=clock) as node:
        mission = await node.submit(act("a"), compute("b"))
        await node.until("b", TaskState.DONE)
        assert node.state("a") is TaskState.READY
        assert node.kernel.waiting[node.id("a")].refusals[0].reason == "is working out its estimate"
        gate.set()
        await node.through(mission)
        assert node.state("a") is TaskState.DONE


async def test_attempts_on_a_device_that_fell_silent_are_given_up_after_a_grace() -> None:
    clock = FakeClock()

    class Silent(ScriptedDevice):
        gone = False

        def status(self) -> DeviceStatus:
            return DeviceStatus(alive=not self.gone)

    device = Silent(clock, default=Step(hold=True))
    async with bench(device, clock=clock) as node:
        mission = await node.submit(act("a"))
        await node.until("a", TaskState.RUNNING)
        device.gone = True
        await clock.advance(4.0)
        assert node.state("a") is TaskState.RUNNING
        assert node.kernel.fleet["scripted"].state is DeviceState.LOST
        await node.through(mission)
        assert node.state("a") is TaskState.UNKNOWN
        assert "no longer heard" in node.reason("a")


async def test_a_halted_device_takes_no_work_until_it_is_released_and_a_restart_frees_nothing() -> None:
    clock, journal = FakeClock(), MemoryJournal()
    device = ScriptedDevice(clock)
    async with bench(device, clock=clock, journal=journal) as node:
        assert await node.kernel.halt(None, by="ada") == ["scripted"]
        mission = await node.submit(act("a"))
        await clock.advance(30.0)
        assert node.state("a") is TaskState.READY
        assert device.halts == 1
    async with bench(device, clock=clock, journal=MemoryJournal(journal.blocks)) as node:
        await clock.advance(30.0)
        assert node.state("a") is TaskState.READY
        assert node.kernel.fleet["scripted"].state is DeviceState.HALTED
        await node.kernel.fleet.release("scripted")
        await node.through(mission)
        assert node.state("a") is TaskState.DONE


async def test_halting_an_unknown_name_halts_the_others_first() -> None:
    clock = FakeClock()
    device = ScriptedDevice(clock)
    async with bench(device, clock=clock) as node:
        with pytest.raises(NotFound, match="no device typo"):
            await node.kernel.halt(["typo", "scripted"], by="ada")
        assert device.halts == 1
        assert any(isinstance(event, ev.Halted) and event.devices == ("scripted",) for event in node.events)


# ── the journal ──────────────────────────────────────────────────────────────


async def test_when_the_journal_fails_the_kernel_stops_and_performs_nothing_more() -> None:
    clock, journal = FakeClock(), MemoryJournal()
    device = ScriptedDevice(clock)
    async with bench(device, clock=clock, journal=journal) as node:
        await node.kernel.fleet.open(["scripted"])
        await node.submit(act("a"))
        journal.break_at = len(journal.blocks) + 1
        assert node.loop is not None
        with pytest.raises(JournalBroken):
            await clock.carry(node.loop)
        assert device.order == [], "the placement was not durable, so the device never heard of it"
        with pytest.raises(JournalBroken):
            await node.submit(act("b"))
        with pytest.raises(JournalBroken):
            await node.kernel.halt(None, by="ada")
        assert device.halts == 1, "nothing gates a stop"


async def test_a_journal_that_fails_in_its_own_way_stops_the_kernel_as_well() -> None:
    clock, journal = FakeClock(), MemoryJournal()
    async with bench(ScriptedDevice(clock), clock=clock, journal=journal) as node:

        async def full(events: Sequence[ev.Event]) -> int:
            raise OSError("no space left")

        journal.append = full  # type: ignore[method-assign]
        with pytest.raises(JournalBroken, match="no space left"):
            await node.submit(act("a"))
        assert node.loop is not None
        with pytest.raises(JournalBroken):
            await clock.carry(node.loop)


async def test_a_mistake_inside_the_kernel_ends_it_and_is_not_started_again() -> None:
    clock = FakeClock()
    async with bench(ScriptedDevice(clock), clock=clock) as node:
        mission = await node.submit(act("a", device="scripted"))
        waiting = asyncio.create_task(node.kernel.ended(mission))
        await asyncio.sleep(0)
        node.kernel._crashed(KeyError("a bug"))
        with pytest.raises(JournalBroken):
            await waiting
        assert node.loop is not None
        with pytest.raises(JournalBroken, match="a mistake of its own"):
            await clock.carry(node.loop)


async def test_events_are_journaled_in_the_order_they_were_applied_even_when_callers_give_up() -> None:
    clock, journal = FakeClock(), MemoryJournal()
    async with bench(ScriptedDevice(clock), clock=clock, journal=journal) as node:
        journal.stall()
        callers = [asyncio.create_task(node.submit(act("a", device="x"), name=f"n{number}")) for number in range(6)]
        await clock.settle()
        for caller in callers[::2]:
            caller.cancel()
        await clock.settle()
        journal.flow()
        await asyncio.gather(*callers, return_exceptions=True)
        await clock.settle()
        submitted = [event.mission for event in journal.events if isinstance(event, ev.MissionSubmitted)]
        assert submitted == [record.id for record in node.kernel.machine.missions]
        assert [event.mission for event in node.events if isinstance(event, ev.MissionSubmitted)] == submitted


async def test_a_journal_whose_events_do_not_fit_is_broken() -> None:
    journal = MemoryJournal()
    await journal.append([ev.TasksCancelled(at_s=0.0, ids=ev.ids_of(5))])
    clock = FakeClock()
    with pytest.raises(JournalBroken, match="block 1"):
        async with bench(ScriptedDevice(clock), clock=clock, journal=journal):
            raise AssertionError("it booted")
