"""What the page `docs/how-to/run-a-circuit.md` shows is what runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qaios.bridge.missions import read_mission
from qaios.core.values import DeviceSpec
from qaios.drivers.aer import ACTIONS
from tests.quantum.circuits_for_tests import request, run

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "run-a-circuit.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`([\w.]+)`\n\n```(?:yaml|python)\n(.*?)```", PAGE, re.DOTALL))


def test_the_page_has_its_files() -> None:
    assert sorted(FILES) == ["bell.yaml", "ghz.py", "split.yaml"]


@pytest.mark.parametrize("name", ["bell.yaml", "split.yaml"])
def test_the_missions_are_valid_and_their_tasks_run(name: str) -> None:
    document = read_mission(FILES[name].encode(), file=name)
    ((task_name, task),) = document.tasks.items()
    assert task_name in FILES[name]
    spec = DeviceSpec("ibm-boston", "aer", "qpu", ACTIONS)
    action = spec.action(task.do)
    assert action is not None and set(task.arguments) <= set(action.parameters)
    value = run(request(task.do, **task.arguments))["value"]
    if name == "bell.yaml":
        assert value["counts"]["00"] + value["counts"]["11"] > 950
    else:
        assert value["cost"] == value["optimal_cost"] == 2.0


def test_the_program_makes_a_mission_whose_circuit_runs() -> None:
    names: dict[str, object] = {}
    exec(compile(FILES["ghz.py"], "ghz.py", "exec"), names)
    (task,) = names["mission"].document().tasks.values()  # type: ignore[attr-defined]
    counts = run(request(task.do, **task.arguments))["value"]["counts"]
    assert counts["000"] + counts["111"] > 1900


def test_the_page_names_every_figure_it_explains() -> None:
    value = run(request("quantum.optimize", problem="sector-split", cells=[{"id": i} for i in "abcd"]))["value"]
    for figure in ("cost", "sample_mean", "random_mean", "success_probability", "random_success_probability"):
        assert f"`{figure}`" in PAGE and figure in value
    assert "`halving_cost`" in PAGE and "halving_cost" in value
