"""Who dies when is the seed's choice."""

from __future__ import annotations

import math

import pytest

from qaios.worlds import wire
from qaios.worlds.drill import Drills

ALL = [True] * 4


def outcome(seed: int, flying: list[bool] = ALL) -> tuple[float, int]:
    drills = Drills(seed, 4)
    drills.arm(wire.ArmDrill("k", 10.0, 20.0), now_s=100.0)
    for barrier in range(1000):
        now_s = 100.0 + 0.04 * barrier
        victim = drills.due(now_s, flying)
        if victim is not None:
            assert drills.state("k") == wire.Drill("k", "done", f"drone-{victim + 1}", now_s)
            assert drills.due(now_s + 1.0, flying) is None
            return now_s, victim
    raise AssertionError("nobody died")


def test_the_same_seed_kills_the_same_vehicle_at_the_same_moment() -> None:
    assert outcome(5) == outcome(5)
    assert len({outcome(seed) for seed in range(8)}) > 4
    assert {outcome(seed)[1] for seed in range(30)} == {0, 1, 2, 3}


def test_the_moment_lies_in_the_window() -> None:
    for seed in range(20):
        assert 110.0 <= outcome(seed)[0] <= 120.04


def test_only_who_flies_can_die_and_otherwise_it_waits() -> None:
    assert {outcome(seed, [False, False, True, False])[1] for seed in range(10)} == {2}
    drills = Drills(1, 4)
    drills.arm(wire.ArmDrill("k", 0.0, 0.0), 0.0)
    assert drills.due(1.0, [False] * 4) is None
    assert drills.state("k").state == "waiting"
    assert drills.due(2.0, ALL) is not None


def test_arming_twice_is_arming_once_and_a_disarmed_drill_never_fires() -> None:
    drills = Drills(1, 4)
    assert drills.state("k").state == "never"
    drills.arm(wire.ArmDrill("k", 5.0, 5.0), 0.0)
    drills.arm(wire.ArmDrill("k", 1.0, 1.0), 0.0)
    assert drills.due(2.0, ALL) is None
    assert drills.disarm("k").state == "disarmed"
    assert drills.due(9.0, ALL) is None
    assert drills.disarm("other").state == "never"


@pytest.mark.parametrize("window", [(5.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_what_is_no_window_is_refused(window: tuple[float, float]) -> None:
    assert Drills(1, 4).arm(wire.ArmDrill("k", *window), 0.0).state == "refused"
