"""The ladder of failure: which rung comes after an attempt that did not succeed.

retry → another device → the named fallback → a planner's repair → the task fails with its reason.

Pure: the kernel asks here, and the answer is recorded in the event, so replay never climbs differently.
"""

from __future__ import annotations

from dataclasses import dataclass

from qaios.core.values import Rung


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that did not succeed, and what is left to try."""

    refused: bool  # the device would not take it; nothing was done
    lost: bool  # the device is gone
    retryable: bool  # the driver says that again may help
    tries: int  # on this device with this action, this one included
    retries: int  # further tries allowed after the first
    elsewhere: bool  # another usable device offers the action
    fallback: bool  # the task names a fallback not yet taken
    repairable: bool  # a planner knows this action


def next_rung(failure: Failure) -> Rung:
    """The first rung that is left."""
    same_device = not failure.refused and not failure.lost and failure.retryable
    if same_device and failure.tries <= failure.retries:
        return Rung.RETRY
    # What a lost device had begun must not be begun again from the start by another: a planner
    # who knows what is left goes first.
    if failure.lost and failure.repairable:
        return Rung.REPAIR
    if failure.elsewhere and (failure.refused or failure.lost or failure.retryable):
        return Rung.ELSEWHERE
    if failure.fallback:
        return Rung.FALLBACK
    return Rung.REPAIR if failure.repairable else Rung.FAIL


def backoff_s(tries: int, *, first_s: float = 0.25, limit_s: float = 30.0) -> float:
    """Exponential back-off before try number `tries + 1`."""
    return float(min(limit_s, first_s * 2.0 ** min(64, max(0, tries - 1))))
