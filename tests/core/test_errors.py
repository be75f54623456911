"""The tree of errors is what its docstring says, and each exit code means one thing."""

from __future__ import annotations

import re

import pytest

from qaios.core import errors
from qaios.core.errors import DeviceFault, Fault, MissionInvalid, OutcomeUnknown, QaiError
from qaios.core.values import MissionState, TaskState

EXIT_CODES = {"Invalid": 4, "NotFound": 3, "Conflict": 5, "Denied": 6, "Unreachable": 7, "DeadlineMissed": 8}


def every() -> dict[str, type[QaiError]]:
    return {
        name: one
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, QaiError) and one is not QaiError
    }


def documented() -> dict[str, str]:
    """Name to parent, read off the drawing in the module's docstring."""
    parents, path = {}, ["QaiError"]
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ((?:│   |    )*)[├└]── (\w+)", line):
            depth = len(match.group(1)) // 4 + 1
            path[depth:] = [match.group(2)]
            parents[match.group(2)] = path[depth - 1]
    return parents


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    bases = {name: one.__base__.__name__ for name, one in every().items() if one.__base__ is not None}
    assert documented() == bases


@pytest.mark.parametrize("name", sorted(every()))
def test_an_exit_code_belongs_to_one_branch_and_is_in_the_drawing(name: str) -> None:
    one = every()[name]
    branch = next((base.__name__ for base in one.__mro__ if base.__name__ in EXIT_CODES), "")
    assert one.exit_code == EXIT_CODES.get(branch, 1)
    if name in EXIT_CODES:
        line = next(line for line in (errors.__doc__ or "").splitlines() if f"── {name} " in line)
        assert line.endswith(f"exit {one.exit_code}")


def test_exit_codes_are_told_apart() -> None:
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    assert not {0, 1, 2, 130} & set(EXIT_CODES.values())


def test_an_error_carries_what_to_do() -> None:
    assert str(QaiError("no disk", hint="free some")) == "no disk"
    assert QaiError("no disk", hint="free some").hint == "free some"
    assert DeviceFault("x").retryable
    assert not OutcomeUnknown("x").retryable
    fault = Fault("m.yaml", 3, 7, "no such action", "see `qai devices`")
    assert str(MissionInvalid((fault, fault))).splitlines() == ["m.yaml:3:7: no such action — see `qai devices`"] * 2


def test_only_ended_tasks_satisfy_and_the_states_come_in_order() -> None:
    assert [state for state in TaskState if state.ended] == [
        TaskState.DONE,
        TaskState.REPAIRED,
        TaskState.FAILED,
        TaskState.CANCELLED,
    ]
    assert all(state.ended for state in TaskState if state.satisfies)
    assert MissionState.STUCK.value == "unknown"
