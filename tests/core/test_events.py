"""Events survive their way through the journal, and nothing else does."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qaios.core import events as ev
from qaios.core.values import Candidate, Decision, DeviceState, MissionState, Mode, Refusal, Rung, Shape

from .graphs import _plain, columns

SHAPES = (Shape("act", {"n": 1, "deep": [{"x": None}]}, Mode.NATIVE), Shape("act", {}))
TASKS = msgspec.structs.replace(
    columns(["a", "ü b"], [(1, 0)], shape=[0, 1], fallback={1: "other"}),
    arguments=ev.Blobs.of([b"", b"\x81\xa1n\x02"]), device={0: "d"},
)  # fmt: skip
IDS = ev.ids_of(3, 1, 2)
DECISION = Decision((Candidate("d", 0.5, {"fidelity": 0.9}),), (Refusal("e", "is lost"),), ("d, busy",), "greedy", 1.5)
ONE_OF_EACH: list[ev.Event] = [
    ev.KernelBooted(at_s=1.0, epoch=2, node="n", version="1"),
    ev.MissionSubmitted(
        at_s=1.0, mission="m", name="n", goal="g", owner="o", key="k", seed=-7, deadline_s=None, document=b"\x00x",
        shapes=SHAPES, tasks=TASKS,
    ),
    ev.TasksAdded(at_s=1.0, parent=3, repairs=True, replan_s=0.25, shapes=SHAPES, tasks=TASKS),
    ev.TasksPlaced(
        at_s=1.0, ids=IDS, devices=("d", "e"), device=np.array([0, 1, 1], np.uint16), decisions=(DECISION,),
        decision=np.zeros(3, np.uint32), effectful=np.array([True, False, True]), epoch=2,
    ),
    ev.TasksFinished(at_s=1.0, ids=IDS, results=ev.Blobs.of([b"", b"a", b"bc"])),
    ev.AttemptsFailed(at_s=1.0, ids=IDS, device="d", reason="r", rung=Rung.ELSEWHERE, lost_s=2.5),
    ev.AttemptsLost(at_s=1.0, ids=IDS, reason="r"),
    ev.AttemptsUnknown(at_s=1.0, ids=IDS, device="d", reason="r"),
    ev.UnknownResolved(at_s=1.0, ids=IDS, happened=True, by="ada"),
    ev.RepairRefused(at_s=1.0, ids=IDS, reason="r"),
    ev.TasksRerouted(at_s=1.0, ids=IDS, reason="r", fallback=False, repair=True),
    ev.CancelAsked(at_s=1.0, ids=IDS, by="ada"),
    ev.TasksCancelled(at_s=1.0, ids=ev.ids_of()),
    ev.ChunkEmitted(at_s=1.0, id=3, chunk=b"\x01"),
    ev.DeadlineMissed(at_s=1.0, ids=IDS),
    ev.MissionEnded(at_s=1.0, mission="m", state=MissionState.STUCK, reason="r"),
    ev.DeviceChanged(at_s=1.0, device="d", state=DeviceState.LOST, reason="r", pid=12),
    ev.EngineCrashed(at_s=1.0, engine="e", reason="r", restarts=2, wait_s=0.2),
    ev.Halted(at_s=1.0, devices=("d",), by="ada"),
]  # fmt: skip


def test_the_list_holds_every_type_of_event() -> None:
    assert {type(event) for event in ONE_OF_EACH} == set(ev.AnyEvent.__args__)


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: type(event).__name__)
def test_every_event_comes_back_as_it_was(event: ev.Event) -> None:
    (back,) = ev.decode_events(ev.encode_events([event]))
    assert type(back) is type(event)
    assert _plain(back) == _plain(event)


def test_a_block_keeps_its_events_in_order() -> None:
    back = ev.decode_events(memoryview(ev.encode_events(ONE_OF_EACH)))
    assert [type(event) for event in back] == [type(event) for event in ONE_OF_EACH]
    assert ev.decode_events(ev.encode_events([])) == []


def test_columns_of_a_decoded_event_can_be_written_to_and_outlive_its_block() -> None:
    (back,) = ev.decode_events(memoryview(ev.encode_events([ev.TasksCancelled(at_s=1.0, ids=IDS)])))
    assert isinstance(back, ev.TasksCancelled)
    back.ids[0] = 9
    assert back.ids.tolist() == [9, 1, 2]


BLOCK = ev.encode_events([ev.TasksCancelled(at_s=1.0, ids=IDS)])


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff",
        b"text",
        BLOCK[:-1],
        BLOCK + b"\x00",
        BLOCK.replace(b"tasks-cancelled", b"tasks-forgotten"),
        BLOCK.replace(b"\xc7\x18\x01", b"\xc7\x18\x09"),
        BLOCK.replace(b"\xc7\x18\x01", b"\xc7\x18\x03"),
        msgspec.msgpack.encode([{"event": "tasks-cancelled", "at_s": 1.0, "ids": [1, 2]}]),
        msgspec.msgpack.encode([{"event": "tasks-cancelled", "at_s": 1.0}]),
        msgspec.msgpack.encode([{"at_s": 1.0}]),
    ],
)
def test_what_was_not_written_here_is_refused(garbage: bytes) -> None:
    assert garbage != BLOCK
    with pytest.raises(msgspec.DecodeError):
        ev.decode_events(garbage)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(BLOCK) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_still_an_event_but_never_another_error(place: int, flip: int) -> None:
    bent = BLOCK[:place] + bytes([BLOCK[place] ^ flip]) + BLOCK[place + 1 :]
    try:
        back = ev.decode_events(bent)
    except msgspec.DecodeError:
        return
    assert all(isinstance(event, ev.Event) for event in back)


def test_what_has_no_place_in_an_event_cannot_be_encoded() -> None:
    with pytest.raises((NotImplementedError, TypeError)):
        ev.encode_events([ev.CancelAsked(at_s=1.0, ids=IDS, by=object())])  # type: ignore[arg-type]


@given(st.lists(st.binary(max_size=5), max_size=20))
def test_blobs_are_the_items_they_were_made_of(items: list[bytes]) -> None:
    blobs = ev.Blobs.of(items)
    assert list(blobs) == items
    assert len(blobs) == len(items)
