"""`qai logs`: the node's log, read from its file, so that it works when the node is dead and one wants to know why."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from qaios.cli.output import moment

LEVELS = ("debug", "info", "warning", "error", "critical")
LOOK_EVERY_S = 0.3


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on as lines are written, until ^C.")
@click.option(
    "-n", "--last", type=click.IntRange(min=0), default=100, show_default=True, help="How many lines at most."
)
@click.option("--level", type=click.Choice(LEVELS), default="debug", help="Only lines of at least this weight.")
@click.option(
    "-o", "--output", "form", type=click.Choice(["table", "ndjson"]), default="table", help="Words or JSON lines."
)
def logs(follow: bool, last: int, level: str, form: str) -> None:
    """Show the node's log."""
    from qaios.client.run_files import home_folder
    from qaios.core.errors import NotFound

    path = home_folder() / "log" / "node.log"
    if not path.exists():
        raise NotFound(f"there is no log at {path}", hint="no node has run in this home; see QAIOS_HOME")
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in deque((line for line in file if _heavy_enough(line, level)), maxlen=last):
            _show(line, form)
        if follow:
            for line in _growing(file, path):
                if _heavy_enough(line, level):
                    _show(line, form)


def _growing(file: Any, path: Path) -> Iterator[str]:
    """Lines as they are written, through the log's rotation too."""
    part = ""
    while True:
        chunk = file.readline()
        if not chunk:
            time.sleep(LOOK_EVERY_S)
            if path.exists() and path.stat().st_ino != _inode(file):
                file = path.open(encoding="utf-8", errors="replace")
            continue
        part += chunk
        if part.endswith("\n"):
            yield part
            part = ""


def _inode(file: Any) -> int:
    import os

    return os.fstat(file.fileno()).st_ino


def _parsed(line: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except ValueError:
        return {"text": line.rstrip("\n")}
    return data if isinstance(data, dict) else {"text": line.rstrip("\n")}


def _heavy_enough(line: str, level: str) -> bool:
    found = str(_parsed(line).get("level", "info"))
    return LEVELS.index(found if found in LEVELS else "info") >= LEVELS.index(level)


def _show(line: str, form: str) -> None:
    if form == "ndjson":
        click.echo(line.rstrip("\n"))
        return
    data = _parsed(line)
    at = data.get("at")
    when = moment(at) if isinstance(at, int | float) else "-"
    click.echo(f"{when}  {data.get('level', 'info'):<8} {data.get('from', '-')}  {data.get('text', '')}")
    if "trace" in data:
        click.echo(str(data["trace"]))
