"""Frames survive any way the bytes are cut, and garbage is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaios.core.errors import Invalid
from qaios.worlds import wire

BEACON = wire.Beacon(2, (1.0, 2.0, 3.0), (0.0, 0.0, 1.0), airborne=True)
TO_WORLD = [
    wire.Join("clock", "t"),
    wire.Setpoint(1.0, True, (1.0, 0.0, 0.0), 0.5, BEACON, contact=True),
    wire.Ack(0.4, holding=True),
    wire.AskTruth(wire.Grid(0.0, 0.0, 1.0, 1.0, 2, 2, 12.0)),
    wire.ArmDrill("k", 1.0, 2.0),
    wire.Shutdown(),
]
SENSE = wire.Sense(
    0.04, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0, 12.6, 7.0, 3.0, (20.0,) * 24, 0.05,
    (BEACON,), (wire.AirSample(0.04, 12.0, 1.6),),
)  # fmt: skip
FROM_WORLD = [SENSE, wire.Tick(0.08), wire.Drill("k", "armed"), wire.Denied("no"), wire.Stations(())]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_frames_come_out_whole_however_the_stream_is_cut(cuts: list[int]) -> None:
    stream = b"".join(wire.frame(message) for message in TO_WORLD)
    unframer, bodies, at, turn = wire.Unframer(), [], 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        bodies += list(unframer.feed(stream[at : at + size]))
        at, turn = at + size, turn + 1
    assert [wire.to_world(body) for body in bodies] == TO_WORLD


def test_what_the_world_says_comes_out_as_it_went_in() -> None:
    for message in FROM_WORLD:
        (body,) = wire.Unframer().feed(wire.frame(message))
        assert wire.from_world(body) == message


@pytest.mark.parametrize("body", [b"", b"\x90", b"\xc1", b"hello", b"\x81\xa4type\xa4evil"])
def test_garbage_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid):
        wire.to_world(body)
    with pytest.raises(Invalid):
        wire.from_world(body)


def test_an_absurd_length_is_refused() -> None:
    with pytest.raises(Invalid, match="exceeds"):
        list(wire.Unframer().feed(b"\xff\xff\xff\xff"))
