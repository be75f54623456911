"""What a newcomer waits for, against its goal: help, boot, the first mission, the showpiece.

    python -m benchmarks.first_run [--json]

Every row is a real `qai` process on an empty home. CPU is that of the process and the children it waited for; wall
times depend on what else the machine does, so they are printed and never gated.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.survey import ROOT, qai

HELP_RUNS = 7


def help_cpu_ms() -> float:
    """Least CPU of several runs of `qai --help`, in milliseconds."""
    least = float("inf")
    for _ in range(HELP_RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "qaios.cli.main", "--help"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return least * 1000.0


def measure() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"what": "qai --help", "measured": help_cpu_ms(), "unit": "ms CPU", "goal": 120.0}]
    with tempfile.TemporaryDirectory(prefix="qai-") as folder:
        home = Path(folder)
        qai(home, "boot", "--profile", "sim", "--seed", "7", "--detach")
        status = json.loads(qai(home, "status", "-o", "json").stdout)
        rows.append({"what": "boot to ready", "measured": status["boot_s"], "unit": "s", "goal": 2.0})
        for name, goal_s in (("first_mission", 10.0), ("air_survey", 90.0)):
            began_s = time.perf_counter()
            done = qai(home, "mission", "run", str(ROOT / "examples" / f"{name}.yaml"), "--seed", "7", "-o", "json")
            wall_s = time.perf_counter() - began_s
            state = json.loads(done.stdout)["state"] if done.stdout else "no answer"
            rows.append({"what": f"{name} ({state})", "measured": wall_s, "unit": "s", "goal": goal_s})
        qai(home, "shutdown")
    for row in rows:
        row["met"] = row["measured"] <= row["goal"]
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = measure()
    if asked.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        sys.stdout.write(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
        for row in rows:
            verdict = "met" if row["met"] else "MISSED"
            unit, goal = row["unit"], row["goal"]
            sys.stdout.write(f"{row['what']:28} {row['measured']:8.2f} {unit:7} goal {goal:6.1f}  {verdict}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
