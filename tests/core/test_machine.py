"""The state machine by example: what each event does, and what it refuses with nothing changed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from qaios.core import events as ev
from qaios.core.errors import IllegalEvent, NotFound
from qaios.core.machine import Machine
from qaios.core.values import DeviceState, MissionState, Result, Rung, Shape, TaskState

from .graphs import added, columns, fingerprint, finished, placed, submitted


def machine_with(*events: ev.Event) -> Machine:
    machine = Machine()
    for event in events:
        machine.apply(event)
    return machine


def states(machine: Machine) -> list[str]:
    return [TaskState(state).name for state in machine.state[: machine.count]]


DIAMOND = ((1, 0), (2, 0), (3, 1), (3, 2))


def test_a_diamond_runs_in_waves() -> None:
    machine = Machine()
    assert machine.apply(submitted("abcd", DIAMOND)).ready.tolist() == [0]
    machine.apply(placed(0))
    assert machine.apply(finished(0)).ready.tolist() == [1, 2]
    machine.apply(placed(1, 2))
    assert machine.apply(finished(1)).ready.tolist() == []
    effects = machine.apply(finished(2))
    assert (effects.ready.tolist(), effects.ended.tolist(), effects.missions) == ([3], [2], ())
    machine.apply(placed(3))
    assert machine.apply(finished(3)).missions == ("m-1",)
    assert machine.record("m-1").state is MissionState.DONE


def test_a_need_given_twice_counts_once() -> None:
    machine = machine_with(submitted("ab", ((1, 0), (1, 0))), placed(0))
    assert machine.apply(finished(0)).ready.tolist() == [1]


def test_what_needs_a_failed_task_ends_with_it_and_names_what_it_needed() -> None:
    machine = machine_with(submitted("abcd", ((1, 0), (3, 1))), placed(0, 2))
    failed = ev.AttemptsFailed(at_s=5.0, ids=ev.ids_of(0), device="d", reason="it broke", rung=Rung.FAIL)
    effects = machine.apply(failed)
    assert sorted(effects.ended.tolist()) == [0, 1, 3]
    assert machine.reasons == {0: "it broke", 1: "needs a, which failed", 3: "needs b, which failed"}
    assert machine.apply(finished(2)).missions == ("m-1",)
    assert machine.record("m-1").state is MissionState.FAILED


def test_tasks_that_fail_together_strand_each_its_own() -> None:
    machine = machine_with(submitted("abcd", ((2, 0), (3, 1))), placed(0, 1))
    machine.apply(ev.AttemptsFailed(at_s=5.0, ids=ev.ids_of(0, 1), device="d", reason="no", rung=Rung.FAIL))
    assert machine.reasons[2] == "needs a, which failed"
    assert machine.reasons[3] == "needs b, which failed"


def test_spawned_tasks_are_needed_by_whoever_needs_their_parent_and_theirs_as_well() -> None:
    machine = machine_with(submitted("ab", ((1, 0),)), placed(0))
    assert machine.apply(added(0, ["c", "d"], ((1, 0),))).ready.tolist() == [2]
    machine.apply(finished(0))
    assert states(machine) == ["DONE", "WAITING", "READY", "WAITING"]
    machine.apply(placed(2))
    machine.apply(added(2, ["e"]))
    machine.apply(finished(2))
    assert machine.state[3] == TaskState.WAITING, "d needs c, so it needs what c spawned"
    machine.apply(placed(4))
    assert machine.apply(finished(4)).ready.tolist() == [3]
    machine.apply(placed(3))
    assert machine.apply(finished(3)).ready.tolist() == [1]
    assert machine.children == {0: [2, 3], 2: [4]}


def test_a_repair_takes_the_place_of_what_was_lost() -> None:
    machine = machine_with(submitted("ab", ((1, 0),)), placed(0))
    effects = machine.apply(ev.AttemptsFailed(at_s=5.0, ids=ev.ids_of(0), device="d", reason="", rung=Rung.REPAIR))
    assert effects.repair.tolist() == [0]
    effects = machine.apply(added(0, ["a-rest"], repairs=True))
    assert (effects.ready.tolist(), effects.ended.tolist()) == ([2], [0])
    machine.apply(placed(2))
    assert machine.apply(finished(2)).ready.tolist() == [1]
    assert states(machine) == ["REPAIRED", "READY", "DONE"]


def test_a_repair_with_nothing_left_to_do_lets_the_mission_go_on() -> None:
    machine = machine_with(submitted("ab", ((1, 0),)), placed(0))
    machine.apply(ev.AttemptsFailed(at_s=5.0, ids=ev.ids_of(0), device="d", reason="", rung=Rung.REPAIR))
    assert machine.apply(added(0, [], repairs=True)).ready.tolist() == [1]


def test_a_cancelled_dependent_does_not_forbid_a_repair() -> None:
    machine = machine_with(submitted("abc", ((1, 0), (2, 0))), placed(0))
    machine.apply(ev.CancelAsked(at_s=4.0, ids=ev.ids_of(1), by="ada"))
    machine.apply(ev.AttemptsFailed(at_s=5.0, ids=ev.ids_of(0), device="d", reason="", rung=Rung.REPAIR))
    machine.apply(added(0, ["a-rest"], repairs=True))
    assert states(machine) == ["REPAIRED", "CANCELLED", "WAITING", "READY"]


def test_a_mission_is_stuck_when_all_that_could_go_on_waits_for_an_unknown_effect() -> None:
    machine = machine_with(submitted("abc", ((1, 0),)), placed(0, 2))
    doubt = ev.AttemptsUnknown(at_s=5.0, ids=ev.ids_of(0), device="d", reason="silence")
    assert machine.apply(doubt).missions == ()
    assert machine.apply(finished(2)).missions == ("m-1",)
    assert machine.record("m-1").state is MissionState.STUCK
    effects = machine.apply(ev.UnknownResolved(at_s=6.0, ids=ev.ids_of(0), happened=True, by="ada"))
    assert effects.ready.tolist() == [1]
    assert machine.record("m-1").ended_s is None
    result = machine.result(0)
    assert result is not None and result.provenance == {"resolved_by": "ada"}


def test_cancelling_an_unknown_effect_keeps_the_doubt_in_words() -> None:
    machine = machine_with(submitted("a"), placed(0))
    machine.apply(ev.AttemptsUnknown(at_s=5.0, ids=ev.ids_of(0), device="d", reason="silence"))
    effects = machine.apply(ev.CancelAsked(at_s=6.0, ids=ev.ids_of(0), by="ada"))
    assert effects.missions == ("m-1",)
    assert machine.reasons[0] == "cancelled by ada; its outcome is unknown: silence"


def test_a_finished_task_keeps_its_history_but_no_reason() -> None:
    machine = machine_with(submitted("a"), placed(0))
    machine.apply(ev.AttemptsFailed(at_s=5.0, ids=ev.ids_of(0), device="d", reason="no link", rung=Rung.RETRY))
    machine.apply(placed(0))
    machine.apply(finished(0, results=[msgspec.msgpack.encode(Result(5))]))
    assert machine.history[0] == ["d: no link → retry"]
    assert machine.reasons == {}
    assert machine.key(0) == "/m-1/a"
    result = machine.result(0)
    assert result is not None and result.value == 5


def test_halted_devices_are_remembered_until_something_else_is_said_of_them() -> None:
    machine = machine_with(ev.Halted(at_s=1.0, devices=("a", "b"), by="ada"))
    machine.apply(ev.DeviceChanged(at_s=2.0, device="a", state=DeviceState.IDLE, reason="released"))
    assert machine.halted == {"b"}


BAD_COLUMNS: dict[str, Callable[[], ev.TaskColumns]] = {
    "a circle": lambda: columns("abc", ((0, 1), (1, 2), (2, 0))),
    "a task that needs itself": lambda: columns("ab", ((0, 0),)),
    "a name twice": lambda: columns("aa"),
    "an edge to nowhere": lambda: columns("ab", ((0, 2),)),
    "an edge from before": lambda: columns("ab", ((0, -1),)),
    "half an edge": lambda: msgspec.structs.replace(columns("ab", ((1, 0),)), tails=np.zeros(0, np.int32)),
    "a shape that is not there": lambda: columns("ab", shape=[0, 1]),
    "unequal columns": lambda: msgspec.structs.replace(columns("ab"), priority=np.zeros(1, np.int32)),
    "a name that is no text": lambda: msgspec.structs.replace(columns("a"), names=ev.Blobs.of([b"\xff"])),
    "a fallback for nobody": lambda: columns("ab", fallback={2: "x"}),
    "a device for nobody": lambda: msgspec.structs.replace(columns("ab"), device={-1: "x"}),
    "too few arguments": lambda: msgspec.structs.replace(columns("ab"), arguments=ev.Blobs.of([b""])),
}


@pytest.mark.parametrize("bad", BAD_COLUMNS)
def test_a_graph_that_cannot_be_is_refused_and_changes_nothing(bad: str) -> None:
    machine = machine_with(submitted("xy", mission="m-0"), placed(0))
    before = fingerprint(machine)
    new = submitted("ab")
    with pytest.raises(IllegalEvent):
        machine.apply(msgspec.structs.replace(new, tasks=BAD_COLUMNS[bad]()))
    with pytest.raises(IllegalEvent):
        machine.apply(msgspec.structs.replace(added(0, "ab"), tasks=BAD_COLUMNS[bad]()))
    assert fingerprint(machine) == before


def _failed(task: int, rung: Rung) -> ev.AttemptsFailed:
    return ev.AttemptsFailed(at_s=5.0, ids=ev.ids_of(task), device="d", reason="r", rung=rung)


ILLEGAL: dict[str, ev.Event] = {
    "the mission again": submitted("z"),
    "an empty mission": submitted((), mission="m-2"),
    "the key again": submitted("z", mission="m-2", key="k"),
    "placing what waits": placed(2),
    "placing what runs": placed(1),
    "placing twice at once": placed(0, 0),
    "placing what is not there": placed(99),
    "placing what is before the first": placed(-1),
    "a device beyond the table": msgspec.structs.replace(placed(0), devices=()),
    "a decision beyond the table": msgspec.structs.replace(placed(0), decisions=()),
    "columns too short": msgspec.structs.replace(placed(0), device=np.zeros(0, np.uint16)),
    "no effects": msgspec.structs.replace(placed(0), effectful=np.zeros(0, np.bool_)),
    "finishing what does not run": finished(0),
    "too few results": finished(1, results=[]),
    "a fallback that was not named": _failed(1, Rung.FALLBACK),
    "failing what does not run": _failed(0, Rung.RETRY),
    "rerouting to no fallback": ev.TasksRerouted(at_s=1.0, ids=ev.ids_of(0), reason="", fallback=True),
    "rerouting what runs": ev.TasksRerouted(at_s=1.0, ids=ev.ids_of(1), reason="", fallback=False),
    "losing what does not run": ev.AttemptsLost(at_s=1.0, ids=ev.ids_of(0), reason=""),
    "doubting what does not run": ev.AttemptsUnknown(at_s=1.0, ids=ev.ids_of(0), device="d", reason=""),
    "resolving what is known": ev.UnknownResolved(at_s=1.0, ids=ev.ids_of(1), happened=True, by=""),
    "refusing no repair": ev.RepairRefused(at_s=1.0, ids=ev.ids_of(1), reason=""),
    "confirming no cancellation": ev.TasksCancelled(at_s=1.0, ids=ev.ids_of(1)),
    "cancelling what is not there": ev.CancelAsked(at_s=1.0, ids=ev.ids_of(99), by=""),
    "cancelling twice at once": ev.CancelAsked(at_s=1.0, ids=ev.ids_of(0, 0), by=""),
    "spawning from what does not run": added(0, "z"),
    "spawning a name that is taken": added(1, "a"),
    "repairing what is not lost": added(1, "z", repairs=True),
    "a chunk of nobody": ev.ChunkEmitted(at_s=1.0, id=99, chunk=b""),
    "a deadline of nobody": ev.DeadlineMissed(at_s=1.0, ids=ev.ids_of(99)),
    "an end that has not come": ev.MissionEnded(at_s=1.0, mission="m-1", state=MissionState.DONE),
    "an old epoch": ev.KernelBooted(at_s=1.0, epoch=1, node="n", version=""),
}


@pytest.mark.parametrize("what", ILLEGAL)
def test_an_illegal_event_changes_nothing(what: str) -> None:
    machine = machine_with(
        ev.KernelBooted(at_s=0.0, epoch=1, node="n", version=""), submitted("abc", ((2, 1),), key="k"), placed(1)
    )
    before = fingerprint(machine)
    with pytest.raises(IllegalEvent):
        machine.apply(ILLEGAL[what])
    assert fingerprint(machine) == before


def test_a_task_whose_dependents_have_begun_adds_nothing() -> None:
    machine = machine_with(submitted("ab", ((1, 0),)), placed(0), finished(0), placed(1))
    with pytest.raises(IllegalEvent, match="has already begun"):
        machine.apply(added(0, "c"))


def test_what_is_not_there_is_said_so() -> None:
    machine = machine_with(submitted("a"))
    with pytest.raises(NotFound):
        machine.record("m-9")
    with pytest.raises(NotFound):
        machine.name(7)


def test_many_missions_at_once_keep_their_own_counts() -> None:
    machine = machine_with(*(submitted("ab", mission=f"m-{number}") for number in range(50)))
    machine.apply(placed(*range(0, 100, 2)))
    machine.apply(finished(*range(0, 100, 4)))
    for number, record in enumerate(machine.missions):
        here = TaskState.RUNNING if number % 2 else TaskState.DONE
        assert (record.counts[here], record.counts[TaskState.READY]) == (1, 1)


def test_a_hundred_thousand_tasks_run_through_in_waves(capsys: pytest.CaptureFixture[str]) -> None:
    """A random graph with about two needs a task; the CPU time a task is reported, not asserted."""
    count, random = 100_000, np.random.default_rng(5)
    heads = np.repeat(np.arange(1000, count), 2)
    edges = np.stack([heads, (heads * random.random(len(heads))).astype(np.int64)], axis=1)
    event = ev.MissionSubmitted(
        at_s=0.0, mission="big", name="big", goal="", owner="", key="", seed=0, deadline_s=None, document=b"",
        shapes=(Shape("act", {}),), tasks=columns([f"t{number}" for number in range(count)]),
    )  # fmt: skip
    heads32, tails32 = edges[:, 0].astype(np.int32), edges[:, 1].astype(np.int32)
    event = msgspec.structs.replace(event, tasks=msgspec.structs.replace(event.tasks, heads=heads32, tails=tails32))
    machine, began_s, ended, waves = Machine(), time.process_time(), 0, 0
    ready = machine.apply(event).ready
    while len(ready):
        following = []
        for start in range(0, len(ready), 4096):
            ids = ready[start : start + 4096]
            machine.apply(msgspec.structs.replace(placed(*ids.tolist())))
            effects = machine.apply(ev.TasksFinished(at_s=1.0, ids=ids, results=ev.Blobs.of([b"\x80"] * len(ids))))
            ended += len(effects.ended)
            following.append(effects.ready)
        ready, waves = np.concatenate(following), waves + 1
    with capsys.disabled():
        sys.stderr.write(f"[machine: {(time.process_time() - began_s) / count * 1e6:.1f} µs CPU per task] ")
    assert ended == count
    assert machine.record("big").state is MissionState.DONE
    assert 5 < waves < 100
    before = machine.state[tails32].astype(int)
    assert (before == TaskState.DONE).all()
