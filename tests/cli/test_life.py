"""The whole life of a node, as a person lives it: boot, run, look, halt, kill, boot again, shut down."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qaios.client.run_files import read_node_file
from tests.cli.stage import qai

MISSION = """
mission: roots
tasks:
  root: {do: compute.call, with: {call: "math:sqrt", args: [2]}}
  power: {do: compute.call, needs: [root], with: {call: "math:pow", args: ["${root}", 2]}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home whose node, if there is one at the end, is killed."""
    folder = tmp_path / "home"
    monkeypatch.setenv("QAIOS_HOME", str(folder))
    yield folder
    found = read_node_file(folder)
    if found is not None:
        os.kill(found.pid, signal.SIGKILL)


def test_a_node_lives_works_dies_and_comes_back(home: Path, tmp_path: Path) -> None:
    booted = qai("boot", "--detach", "--profile", "local")
    assert booted.code == 0, booted.err
    assert "ready after" in booted.err
    status = json.loads(qai("status", "-o", "json").out)
    assert (status["profile"], status["epoch"]) == ("local", 1)
    assert status["url"].startswith("http://127.0.0.1:")

    (tmp_path / "roots.yaml").write_text(MISSION)
    report = json.loads(qai("mission", "run", str(tmp_path / "roots.yaml"), "-o", "json").out)
    assert report["state"] == "done"
    assert {device["name"] for device in json.loads(qai("devices", "-o", "json").out)} >= {"cpu"}
    halted = qai("halt", "--all", "-o", "json")
    assert halted.code == 0, halted.err
    assert all(row["node"] for row in json.loads(halted.out))

    found = read_node_file(home)
    assert found is not None
    os.kill(found.pid, signal.SIGKILL)
    os.waitpid(found.pid, 0)  # it was started from here, so it is ours to bury
    again = qai("boot", "--detach", "--profile", "local")
    assert again.code == 0, again.err
    assert json.loads(qai("status", "-o", "json").out)["epoch"] == 2
    assert [mission["state"] for mission in json.loads(qai("mission", "ls", "-o", "json").out)] == ["done"]

    ended = qai("shutdown")
    assert ended.code == 0, ended.err
    assert read_node_file(home) is None
    assert qai("status").code == 7
    assert qai("doctor").code == 0


@pytest.mark.parametrize("line", ["boot", "boot --detach", "mission run ROOTS"])
def test_a_home_that_cannot_be_written_is_an_error_and_no_traceback(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "roots.yaml").write_text(MISSION)
    monkeypatch.setenv("QAIOS_HOME", str(tmp_path / "file" / "home"))
    ended = qai(*(str(tmp_path / "roots.yaml") if word == "ROOTS" else word for word in line.split()))
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert "hint: QAIOS_HOME must name a folder" in ended.err
