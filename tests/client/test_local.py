"""A node in this process: real kernel, real journal, real workers, for missions that need only this computer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qaios.client.local import catalogue, fleet_for
from qaios.core.errors import Invalid, MissionInvalid
from tests.cli.stage import qai
from tests.client.test_notebook import sums

SCRIPT = """
import sys
from pathlib import Path
from qaios import Mission, task

@task
def halve(x):
    return x / 2

if __name__ == "__main__":
    import qaios.system.boot as boot, qaios.system.config as config
    boot.PROFILES = config.PROFILES = {"local": ("compute",)}
    with Mission("halves") as mission:
        quarter = halve(halve(1))
    results = mission.run(home=Path(sys.argv[1]))
    print(results[quarter])
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose node opens the computer only."""
    for module in ("qaios.system.boot", "qaios.system.config"):
        monkeypatch.setattr(f"{module}.PROFILES", {"local": ("compute",)})
    monkeypatch.setenv("QAIOS_HOME", str(tmp_path))
    monkeypatch.delenv("QAIOS_PROFILE", raising=False)
    return tmp_path


def test_the_catalogue_is_known_without_booting(home: Path) -> None:
    assert "compute.call" in {action.name for spec in catalogue() for action in spec.actions}
    assert not (home / "journal.db").exists()


def test_actions_get_the_profile_asked_for_or_the_one_that_offers_most(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("qaios.system.boot", "qaios.system.config"):
        monkeypatch.setattr(f"{module}.PROFILES", {"local": (), "sim": ("compute",)})
    assert fleet_for(["compute.call"])[0] == "sim"
    assert fleet_for(["compute.call", "coffee.brew"])[0] == "sim"
    assert fleet_for(["compute.call"], profile="local")[0] == "local"
    assert fleet_for(["coffee.brew"])[0] == "local"
    assert fleet_for([])[0] == "local"


def test_a_file_with_a_mistake_is_checked_against_the_fleet_it_means(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("qaios.system.boot", "qaios.system.config"):
        monkeypatch.setattr(f"{module}.PROFILES", {"local": (), "sim": ("compute",)})
    (home / "m.yaml").write_text("mission: m\ntasks: {a: {do: compute.call, with: {call: 'm:f'}, priority: soon}}\n")
    result = qai("mission", "validate", str(home / "m.yaml"))
    assert result.code == 4
    assert result.err == "1 fault\n"
    assert "'tasks.a.priority' must be a whole number" in result.out


def test_a_profile_that_cannot_be_composed_is_said_where_it_is_needed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("qaios.system.boot", "qaios.system.config"):
        monkeypatch.setattr(f"{module}.PROFILES", {"local": ("compute",), "sim": ("no-such-driver",)})
    assert fleet_for(["compute.call"])[0] == "local"
    with pytest.raises(Invalid, match="no-such-driver"):
        fleet_for(["drone.scan"])


def test_the_command_line_boots_runs_reports_and_leaves_nothing_running(home: Path) -> None:
    (home / "m.yaml").write_text(qai("mission", "new").out)
    result = qai("mission", "run", str(home / "m.yaml"), "--seed", "5", "-o", "json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert (report["state"], report["seed"], report["simulated"]) == ("done", 5, False)
    power = next(task for task in report["tasks"] if task["name"] == "power")
    assert power["result"] == pytest.approx(2.0)
    assert power["why"]["waited_for"] == ["task root"]
    assert power["why"]["candidates"][0]["device"] == power["device"]
    assert "submitted" in result.err
    assert not (home / "run" / "node.json").exists()
    assert qai("doctor").code == 0


def test_a_plan_says_where_and_a_bad_file_says_everything(home: Path) -> None:
    (home / "m.yaml").write_text(qai("mission", "new").out)
    plan = json.loads(qai("mission", "plan", str(home / "m.yaml"), "-o", "json").out)
    assert all(task["device"] for task in plan)
    (home / "bad.yaml").write_text("mission: m\ntasks:\n  a: {do: compute.cal, needs: [b]}\n")
    result = qai("mission", "validate", str(home / "bad.yaml"))
    assert result.code == 4
    assert "bad.yaml:3:11: unknown action 'compute.cal'" in result.out
    assert "bad.yaml:3:32: task 'a' needs 'b'" in result.out


def test_a_failing_mission_ends_with_one(home: Path) -> None:
    (home / "m.yaml").write_text(
        "mission: m\ntasks: {a: {do: compute.call, retries: 0, with: {call: 'math:sqrt', args: [-1]}}}\n"
    )
    result = qai("mission", "run", str(home / "m.yaml"), "-q", "-o", "json")
    assert result.code == 1
    assert "math domain error" in json.loads(result.out)["tasks"][0]["error"]["message"]


def test_functions_of_a_module_run_in_workers(home: Path) -> None:
    mission = sums()
    del mission._tasks["send"]
    assert mission.run()["total"] == {"sum": 10}


def test_functions_of_a_script_run_in_workers(home: Path, tmp_path: Path) -> None:
    script = tmp_path / "halves.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(home / "apart")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "0.25", done.stderr


async def test_an_unfit_mission_does_not_boot_for_long(home: Path) -> None:
    mission = sums()
    with pytest.raises(MissionInvalid, match=r"unknown action 'hub\.upload'"):
        await mission.run()
