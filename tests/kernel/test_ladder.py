"""Every combination of failure has one rung, and the rungs come in order."""

from __future__ import annotations

import itertools

import pytest

from qaios.core.values import Rung
from qaios.kernel.ladder import Failure, backoff_s, next_rung

FACTS = ("refused", "lost", "retryable", "spent", "elsewhere", "fallback", "repairable")


def expected(*, refused: bool, lost: bool, retryable: bool, spent: bool, elsewhere: bool, fallback: bool,
             repairable: bool) -> Rung:  # fmt: skip
    """The ladder once more, as a list of rules read from the top."""
    rules = [
        (not refused and not lost and retryable and not spent, Rung.RETRY),
        (lost and repairable, Rung.REPAIR),
        (elsewhere and (refused or lost or retryable), Rung.ELSEWHERE),
        (fallback, Rung.FALLBACK),
        (repairable, Rung.REPAIR),
    ]
    return next((rung for holds, rung in rules if holds), Rung.FAIL)


@pytest.mark.parametrize("facts", list(itertools.product((False, True), repeat=len(FACTS))))
def test_every_combination_has_the_rung_of_the_first_rule_that_holds(facts: tuple[bool, ...]) -> None:
    told = dict(zip(FACTS, facts, strict=True))
    failure = Failure(
        refused=told["refused"], lost=told["lost"], retryable=told["retryable"], tries=3 if told["spent"] else 2,
        retries=2, elsewhere=told["elsewhere"], fallback=told["fallback"], repairable=told["repairable"],
    )  # fmt: skip
    assert next_rung(failure) is expected(**told)


def test_a_task_with_two_retries_is_tried_three_times_on_a_device() -> None:
    rungs = [
        next_rung(
            Failure(
                refused=False, lost=False, retryable=True, tries=tries, retries=2, elsewhere=False, fallback=False,
                repairable=False,
            )
        )
        for tries in (1, 2, 3)
    ]  # fmt: skip
    assert rungs == [Rung.RETRY, Rung.RETRY, Rung.FAIL]


def test_the_wait_doubles_up_to_its_limit() -> None:
    assert [backoff_s(tries) for tries in (0, 1, 2, 3, 4)] == [0.25, 0.25, 0.5, 1.0, 2.0]
    assert backoff_s(40) == 30.0
    assert backoff_s(60_000) == 30.0
