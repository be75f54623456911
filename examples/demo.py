"""The demonstration behind `make demo`: boot the simulation, run two missions, say where everything is.

Everything it does can be done by hand with `qai`; it only strings the commands together, measures them and keeps
the files in `demo-output/`. Not on a terminal it ends with exit code 0 when both missions are done; on a terminal
the node stays up until Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import click

from qaios.bridge.missions import load_mission
from qaios.schema.views import MissionReport
from qaios.system.config import Settings
from qaios.system.system import System

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "demo-output"


def say(text: str = "") -> None:
    click.echo(text)


async def fly(system: System, file: str, seed: int) -> MissionReport:
    """Submit one mission file and tell what happens as it happens."""
    document = load_mission(HERE / file, await system.catalogue())
    began_s = time.perf_counter()
    mission = await system.submit(document, seed=seed)
    async for event in system.watch(mission):
        if event.kind not in ("ChunkEmitted", "DeviceChanged"):
            say(f"  {time.perf_counter() - began_s:6.1f} s  {event.text}")
    report = await system.report(mission)
    wall_s = time.perf_counter() - began_s
    say(f"  → {report.state} in {wall_s:.1f} s of wall time, {report.duration_s:.0f} s of mission time")
    return report


async def keep(system: System, report: MissionReport) -> list[Path]:
    """Write the report and its artifacts into `demo-output/`."""
    folder = OUTPUT / report.mission
    folder.mkdir(parents=True, exist_ok=True)
    kept = [folder / "report.json"]
    kept[0].write_text(report.model_dump_json(indent=2))
    for artifact in report.artifacts:
        path = folder / Path(artifact.name).name
        path.write_bytes(await system.artifact(artifact.sha256))
        kept.append(path)
    return kept


async def main(home: Path) -> int:
    began_s = time.perf_counter()
    async with System.boot(Settings.load(home=home, profile="sim", seed=7, open_all=True)) as system:
        status = await system.status()
        say(f"QAI OS {status.version} is ready after {status.boot_s:.2f} s (simulation profile, home {home})")
        reports, kept = [], []
        for title, file in (("first mission", "first_mission.yaml"), ("air survey", "air_survey.yaml")):
            say(f"\n{title}: examples/{file}")
            reports.append(await fly(system, file, seed=7))
            kept += await keep(system, reports[-1])
        say("\nwhat the survey measured (simulated world)")
        for name, value in reports[-1].metrics.items():
            say(f"  {name:24} {json.dumps(value) if not isinstance(value, float) else format(value, '.4g')}")
        say("\nwhere everything is")
        for path in kept:
            say(f"  {path.relative_to(HERE.parent)}")
        say(f"  journal: {home / 'journal.db'}")
        say(f"\nall of it took {time.perf_counter() - began_s:.0f} s")
        if sys.stdout.isatty():
            say("the node stays up; try `qai devices`, `qai mission ls`. Ctrl-C ends it.")
            await system.closed()
    return 0 if all(report.state == "done" for report in reports) else 1


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(Path(os.environ.get("QAIOS_HOME", OUTPUT / "home")).absolute())))
    except KeyboardInterrupt:
        sys.exit(130)
