"""The whole life of a node, as a person lives it: boot, run, look, halt, kill, boot again, shut down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qaios.client.run_files import read_node_file

QAI = [sys.executable, "-m", "qaios.cli"]
MISSION = """
mission: roots
tasks:
  root: {do: compute.call, with: {call: "math:sqrt", args: [2]}}
  power: {do: compute.call, needs: [root], with: {call: "math:pow", args: ["${root}", 2]}}
"""


class Shell:
    """A home, and `qai` run in it as a process of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {**os.environ, "QAIOS_HOME": str(home)}

    def qai(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*QAI, *arguments], capture_output=True, text=True, env=self.env, timeout=120, check=False
        )


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path / "home")
    (tmp_path / "roots.yaml").write_text(MISSION)
    yield made
    found = read_node_file(made.home)
    if found is not None:
        os.kill(found.pid, signal.SIGKILL)


def test_a_node_lives_works_dies_and_comes_back(shell: Shell, tmp_path: Path) -> None:
    booted = shell.qai("boot", "--detach", "--profile", "local")
    assert booted.returncode == 0, booted.stderr
    assert "ready after" in booted.stderr
    status = json.loads(shell.qai("status", "-o", "json").stdout)
    assert (status["profile"], status["epoch"]) == ("local", 1)
    assert status["url"].startswith("http://127.0.0.1:")

    report = json.loads(shell.qai("mission", "run", str(tmp_path / "roots.yaml"), "-o", "json").stdout)
    assert report["state"] == "done"
    assert {device["name"] for device in json.loads(shell.qai("devices", "-o", "json").stdout)} >= {"cpu"}
    halted = shell.qai("halt", "--all", "-o", "json")
    assert halted.returncode == 0, halted.stderr
    assert all(row["node"] for row in json.loads(halted.stdout))

    found = read_node_file(shell.home)
    assert found is not None
    os.kill(found.pid, signal.SIGKILL)
    again = shell.qai("boot", "--detach", "--profile", "local")
    assert again.returncode == 0, again.stderr
    assert json.loads(shell.qai("status", "-o", "json").stdout)["epoch"] == 2
    assert [mission["state"] for mission in json.loads(shell.qai("mission", "ls", "-o", "json").stdout)] == ["done"]

    ended = shell.qai("shutdown")
    assert ended.returncode == 0, ended.stderr
    assert read_node_file(shell.home) is None
    assert shell.qai("status").returncode == 7
    assert shell.qai("doctor").returncode == 0
