"""The showpiece, many times: ten seeds, and kernels killed in mid-air.

    python -m benchmarks.survey seeds --count 10        the same mission under ten skies
    python -m benchmarks.survey kills --count 10        kill -9 the node at a random moment, boot again, see it end

Every run is a real `qai` in a process of its own with a home of its own. Goals: every seed ends `done` with every
planned swath flown, no two drones closer than 2 m, nobody below the battery reserve; after every kill the mission
ends, the hub holds exactly one report of it, and nothing acknowledged is gone. Results are written as JSON and as a
table into `benchmarks/results/`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
MISSION = ROOT / "examples" / "air_survey.yaml"
SEPARATION_MIN_M = 2.0
BATTERY_RESERVE = 0.15
WALL_LIMIT_S = 400.0


def qai(home: Path, *arguments: str, timeout_s: float = WALL_LIMIT_S) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"QAIOS_HOME": str(home), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "qaios.cli.main", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)


def fly(seed: int) -> dict[str, Any]:
    """One survey under one seed, from an empty home."""
    with tempfile.TemporaryDirectory(prefix="qai-") as folder:
        began_s = time.perf_counter()
        done = qai(Path(folder), "mission", "run", str(MISSION), "--seed", str(seed), "-o", "json")
        wall_s = time.perf_counter() - began_s
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        return {
            "seed": seed,
            "state": "no answer",
            "exit": done.returncode,
            "wall_s": wall_s,
            "error": done.stderr[-500:],
        }
    metrics = report["metrics"]
    return {
        "seed": seed,
        "state": report["state"],
        "exit": done.returncode,
        "wall_s": round(wall_s, 1),
        "mission_s": round(report["duration_s"] or 0.0, 1),
        **{name: metrics.get(name) for name in METRICS},
        "reason": report.get("reason", ""),
        "good": _good(report["state"], metrics),
    }


METRICS = (
    "detection_s", "replan_s", "swaths_planned", "swaths_flown", "min_separation_m", "min_battery_fraction",
    "plume_error", "baseline_error", "qaoa_cost", "optimal_cost",
)  # fmt: skip


def _good(state: str, metrics: dict[str, Any]) -> bool:
    return (
        state == "done"
        and metrics.get("swaths_planned") == metrics.get("swaths_flown")
        and (metrics.get("min_separation_m") or 0.0) >= SEPARATION_MIN_M
        and (metrics.get("min_battery_fraction") or 0.0) >= BATTERY_RESERVE
    )


def kill(trial: int, after_s: float) -> dict[str, Any]:
    """Boot, submit, kill -9 after so many seconds of wall time, boot again, wait for the end."""
    row: dict[str, Any] = {"trial": trial, "killed_after_s": round(after_s, 1)}
    with tempfile.TemporaryDirectory(prefix="qai-") as folder:
        home = Path(folder)
        qai(home, "boot", "--profile", "sim", "--seed", str(trial), "--detach")
        submitted = qai(home, "mission", "run", str(MISSION), "--seed", str(trial), "--detach", "-o", "name")
        mission = submitted.stdout.strip().splitlines()[-1] if submitted.stdout.strip() else ""
        node = json.loads((home / "run" / "node.json").read_text())
        time.sleep(after_s)
        before = _mission(home, mission)
        os.kill(node["pid"], signal.SIGKILL)
        row["state_before"] = before.get("state")
        row["done_before"] = sorted(t["name"] for t in before.get("tasks", []) if t["state"] == "done")
        qai(home, "boot", "--profile", "sim", "--seed", str(trial), "--detach")
        began_s = time.monotonic()
        while (after := _mission(home, mission)).get("state") in (None, "running"):
            if time.monotonic() - began_s > WALL_LIMIT_S:
                break
            time.sleep(1.0)
        done_after = {t["name"] for t in after.get("tasks", []) if t["state"] == "done"}
        row["state"] = after.get("state")
        row["reason"] = after.get("reason", "")
        row["lost"] = sorted(set(row["done_before"]) - done_after)
        row["reports_at_hub"] = _reports(home)
        row["unfinished"] = {t["name"]: t["state"] for t in after.get("tasks", []) if t["state"] != "done"}
        qai(home, "shutdown")
    row["good"] = row["state"] == "done" and not row["lost"] and row["reports_at_hub"] == 1
    return row


def _mission(home: Path, mission: str) -> dict[str, Any]:
    answer = qai(home, "mission", "get", mission, "-o", "json")
    try:
        found: dict[str, Any] = json.loads(answer.stdout)
    except json.JSONDecodeError:
        return {}
    return found


def _reports(home: Path) -> int:
    """How many reports the hub stores, asked of the hub itself."""
    import httpx
    import msgspec

    from qaios.security.statements import HubAddress

    address = msgspec.json.decode(HubAddress.path(home).read_bytes(), type=HubAddress)
    answer = httpx.get(f"{address.url}/v1/reports", headers={"Authorization": f"Bearer {address.token}"})
    listed = answer.json()
    return len(listed["reports"] if isinstance(listed, dict) else listed)


def write(name: str, rows: list[dict[str, Any]]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}-{name}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("seeds", "kills"))
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--first", type=int, default=1)
    asked = parser.parse_args()
    rows = []
    chance = random.Random(20261122)
    for number in range(asked.first, asked.first + asked.count):
        row = fly(number) if asked.what == "seeds" else kill(number, chance.uniform(1.0, 34.0))
        rows.append(row)
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
    path = write(f"survey-{asked.what}", rows)
    sys.stdout.write(f"{sum(row.get('good', False) for row in rows)} of {len(rows)} good; {path}\n")
    return 0 if all(row.get("good") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
