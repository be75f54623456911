"""References in arguments: found, resolved, refused with the part that is missing."""

from __future__ import annotations

from typing import Any

import pytest

from qaios.bridge.references import is_reference, references, refers, resolve
from qaios.core.errors import DeviceFault

VALUES = {"scan": {"area": {"m2": 4.5}, "legs": [10, 20]}, "a-b_1": 7}
CHILDREN = {"scan": [{"n": 1}, {"n": 2}]}


def resolved(arguments: Any) -> Any:
    return resolve(arguments, VALUES.__getitem__, lambda name: CHILDREN.get(name, []))


@pytest.mark.parametrize(
    ("written", "becomes"),
    [
        ("${a-b_1}", 7),
        ("${scan.area.m2}", 4.5),
        ("${scan.legs.1}", 20),
        ("${scan.*}", [{"n": 1}, {"n": 2}]),
        ("${scan.*.n}", [1, 2]),
        ("${a-b_1.*}", []),
        ("area ${scan.area.m2} by ${a-b_1}", "area 4.5 by 7"),
        ({"x": ["${a-b_1}", ("${scan.legs}",)]}, {"x": [7, [[10, 20]]]}),
        ("$scan ${} {scan}", "$scan ${} {scan}"),
        (3, 3),
        (None, None),
    ],
)
def test_a_reference_becomes_what_it_names(written: Any, becomes: Any) -> None:
    assert resolved(written) == becomes


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("${scan.area.ft2}", "there is no 'ft2'; the result has m2"),
        ("${scan.legs.2}", "there is no '2'; the result has list"),
        ("${a-b_1.x}", "there is no 'x'; the result has int"),
        ("${scan.*.m}", "there is no 'm'; the result has n"),
    ],
)
def test_a_part_that_is_not_there_is_named(written: str, says: str) -> None:
    with pytest.raises(DeviceFault) as caught:
        resolved(written)
    assert says in str(caught.value)
    assert not caught.value.retryable


def test_all_tasks_that_arguments_mention_are_found() -> None:
    assert list(references({"a": ["${x.1}", {"b": "${y} and ${x}"}], "c": 5})) == ["x", "y", "x"]


@pytest.mark.parametrize(
    ("value", "somewhere", "whole"),
    [("${a.b}", True, True), ("at ${a}", True, False), ({"x": [("${a}",)]}, True, False), ("$a {b}", False, False)],
)
def test_a_device_can_ask_what_it_cannot_know_yet(value: Any, somewhere: bool, whole: bool) -> None:
    assert refers(value) is somewhere
    assert is_reference(value) is whole
