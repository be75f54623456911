"""A sound mission file becomes the document it means, and the document becomes the kernel's tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from qaios.bridge.missions import check_document, load_mission, outline, read_mission
from qaios.core.errors import MissionInvalid
from qaios.core.values import Mode
from qaios.schema.mission import MissionDocument, task_specs
from tests.bridge.fleet import CATALOGUE

FOUNDING = b"""\
# the four tasks of the founding example, out of order
mission: first mission
goal: Air quality of Grid-A1
deadline: 20 min
seed: 7
defaults: {priority: 5, retries: 1}
tasks:
  upload:
    do: hub.upload
    needs: [collect]
    priority: 4
    with: {content: "${collect.samples}"}
  collect: {do: drone.sample, needs: [navigate], priority: 3, with: {at: "${navigate.position}"}}
  scan:
    do: drone.scan
    priority: 1
    deadline: 90 s
  navigate:
    do: drone.goto
    needs: [scan]
    with:
      to: [47.3977, 8.5456]
      altitude_m: 2e1
"""


def test_the_founding_example_becomes_four_tasks() -> None:
    document = read_mission(FOUNDING, file="first.yaml", catalogue=CATALOGUE)
    specs = {spec.name: spec for spec in task_specs(document)}
    assert list(specs) == ["upload", "collect", "scan", "navigate"]
    assert (specs["scan"].priority, specs["navigate"].priority) == (1, 5)
    assert specs["scan"].deadline_s == 90.0
    assert specs["upload"].deadline_s == 1200.0
    assert specs["upload"].needs == ("collect",)
    assert specs["navigate"].arguments == {"to": [47.3977, 8.5456], "altitude_m": 20.0}
    assert all(spec.retries == 1 for spec in specs.values())
    assert specs["scan"].mode is Mode.CLASSICAL


def test_scalars_are_read_as_yaml_1_2_reads_them() -> None:
    values = b"[no, on, 12:30, 010, 0x10, 1e3, ~, true, 2020-01-01]"
    text = b"mission: 42\ntasks:\n  7: {do: compute.call, with: {call: 'm:f', args: " + values + b"}}"
    document = read_mission(text, file="m.yaml")
    assert document.mission == "42"
    assert document.tasks["7"].arguments["args"] == ["no", "on", "12:30", 10, 16, 1000.0, None, True, "2020-01-01"]


def test_aliases_are_written_out() -> None:
    text = b"mission: m\ntasks:\n  a: {do: x.y, with: &w {k: [1]}}\n  b: {do: x.y, with: *w}\n"
    document = read_mission(text, file="m.yaml")
    assert document.tasks["a"].arguments == document.tasks["b"].arguments == {"k": [1]}


def test_files_beside_the_mission_are_read_in(tmp_path: Path) -> None:
    (tmp_path / "areas").mkdir()
    (tmp_path / "areas" / "city.geojson").write_text('{"type": "Point", "coordinates": [8.5, 47.4]}')
    (tmp_path / "bell.qasm").write_text("OPENQASM 3.0;\n")
    (tmp_path / "limits.yaml").write_text("max: 3\n")
    (tmp_path / "m.yaml").write_text(
        "mission: m\ntasks:\n  t:\n    do: x.y\n    with:\n"
        "      area: {file: areas/city.geojson}\n      program: {file: bell.qasm}\n"
        "      limits: [{file: limits.yaml}]\n"
    )
    arguments = load_mission(tmp_path / "m.yaml").tasks["t"].arguments
    assert arguments["area"]["coordinates"] == [8.5, 47.4]
    assert arguments["program"] == "OPENQASM 3.0;\n"
    assert arguments["limits"] == [{"max": 3}]


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    inside = tmp_path / "missions"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "m.yaml").write_text("mission: m\ntasks: {t: {do: x.y, with: {k: {file: link}}}}\n")
    with pytest.raises(Exception, match="outside the mission file's folder"):
        load_mission(inside / "m.yaml")


def test_a_fallback_takes_over_from_an_action_the_fleet_lacks() -> None:
    text = b"mission: m\ntasks: {t: {do: photonic.gbs, mode: enhanced, fallback: compute.call, with: {call: 'm:f'}}}"
    assert read_mission(text, file="m.yaml", catalogue=CATALOGUE).tasks["t"].fallback == "compute.call"


def test_a_pinned_device_that_can_is_fine() -> None:
    text = b"mission: m\ntasks: {t: {do: quantum.optimize, mode: native, device: aer-0, with: {problem: {}}}}"
    assert read_mission(text, file="m.yaml", catalogue=CATALOGUE).tasks["t"].device == "aer-0"


def test_a_document_survives_the_wire() -> None:
    document = read_mission(FOUNDING, file="first.yaml", catalogue=CATALOGUE)
    assert MissionDocument.model_validate_json(document.model_dump_json(by_alias=True)) == document
    assert check_document(document, CATALOGUE) == ()


def test_references_reach_through_what_is_needed_indirectly() -> None:
    text = (
        b"mission: m\ntasks:\n  a: {do: x.y}\n  b: {do: x.y, needs: [a]}\n"
        b"  c: {do: x.y, needs: [b], with: {k: '${a}', l: 'at ${a.*.spot} and ${b.x.0}'}}\n"
    )
    assert read_mission(text, file="m.yaml").tasks["c"].arguments["k"] == "${a}"


def test_a_file_has_an_outline_even_with_faults() -> None:
    assert outline(FOUNDING) == ("", frozenset({"hub.upload", "drone.sample", "drone.scan", "drone.goto"}))
    assert outline(b"profile: sim\ntasks: {a: {do: x.y, priority: soon}, b: 3, c: {do: [z]}}") == (
        "sim",
        frozenset({"x.y"}),
    )
    for content in (b"", b"- a", b"tasks: [a", b"\xff", b"tasks: 3"):
        assert outline(content) == ("", frozenset())


def test_a_profile_that_is_not_there_is_a_fault_with_a_place() -> None:
    text = b"mission: m\nprofile: sin\ntasks: {a: {do: x.y}}\n"
    with pytest.raises(MissionInvalid, match=r"m\.yaml:2:10: there is no profile .sin. — did you mean .sim."):
        read_mission(text, file="m.yaml", profiles=("local", "sim"))
    assert read_mission(text, file="m.yaml").profile == "sin"


def test_a_function_beside_the_mission_or_in_a_folder_of_the_shell_is_found_by_any_node(tmp_path: Path) -> None:
    beside, shell = tmp_path / "beside", tmp_path / "shell"
    (shell / "ours").mkdir(parents=True)
    beside.mkdir()
    (beside / "steps.py").write_text("")
    text = b"""mission: mine
tasks:
  a: {do: compute.call, with: {call: "steps:one"}}
  b: {do: compute.call, with: {call: "ours.deep:two"}}
  c: {do: compute.call, with: {call: "math:sqrt", args: [4]}}
  d: {do: compute.call, with: {call: "steps:one", path: [/elsewhere]}}
"""
    document = read_mission(text, file="m.yaml", folder=beside, modules=[shell])
    paths = {name: task.arguments.get("path") for name, task in document.tasks.items()}
    assert paths == {"a": [str(beside)], "b": [str(shell)], "c": None, "d": ["/elsewhere"]}
    assert "path" not in read_mission(text, file="-").tasks["a"].arguments
