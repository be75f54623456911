"""How data leaves the command line: a table for people, tabs for pipes, JSON, YAML, lines or names for scripts.

A verb gives its rows as models of `qaios.schema` and the columns of its table; `-o` chooses the rest. Nothing is
coloured unless stdout is a terminal. An empty list is `[]`, not silence.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pydantic import BaseModel

FORMATS = ("table", "json", "yaml", "ndjson", "name")
CommandT = TypeVar("CommandT", bound=Callable[..., Any])

Columns = Sequence[tuple[str, Callable[[Any], Any]]]

COLOURS = {
    "done": "green", "idle": "green", "ready": "green", "ok": "green",
    "running": "cyan", "busy": "cyan", "opening": "cyan", "repaired": "cyan",
    "failed": "red", "lost": "red", "halted": "red", "wrong": "red",
    "cancelled": "yellow", "cancelling": "yellow", "unknown": "yellow", "impossible": "red",
}  # fmt: skip


def output_option(command: CommandT) -> CommandT:
    """`-o`, the same at every verb that prints data."""
    choice = click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(FORMATS),
        default="table",
        help="How to print: a table, JSON, YAML, JSON lines or names only.",
    )
    return choice(command)


def plain(row: BaseModel | dict[str, Any]) -> dict[str, Any]:
    """A model as JSON-ready data; a dict is that already."""
    if isinstance(row, dict):
        return row
    data: dict[str, Any] = json.loads(row.model_dump_json())
    return data


def emit_list(rows: Sequence[BaseModel | dict[str, Any]], columns: Columns, form: str, *, name: str = "name") -> None:
    """Print many rows. `name` is the field that `-o name` prints."""
    if form == "table":
        emit_table(rows, columns)
    elif form == "json":
        emit_json([plain(row) for row in rows])
    elif form == "yaml":
        _emit_yaml([plain(row) for row in rows])
    elif form == "ndjson":
        for row in rows:
            click.echo(json.dumps(plain(row), ensure_ascii=False))
    else:
        for row in rows:
            click.echo(plain(row)[name])


def emit_one(row: BaseModel | dict[str, Any], form: str, table: Callable[[], None], *, name: str = "name") -> None:
    """Print one thing; `table` prints it for people."""
    if form == "table":
        table()
    elif form == "json":
        emit_json(plain(row))
    elif form == "yaml":
        _emit_yaml(plain(row))
    elif form == "ndjson":
        click.echo(json.dumps(plain(row), ensure_ascii=False))
    else:
        click.echo(plain(row)[name])


def emit_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def _emit_yaml(data: Any) -> None:
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    click.echo(yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=True, width=100), nl=False)


def emit_table(rows: Sequence[Any], columns: Columns) -> None:
    """A table on a terminal, tab-separated lines with a header into a pipe."""
    cells = [[_cell(value(row)) for _, value in columns] for row in rows]
    titles = [title for title, _ in columns]
    if not sys.stdout.isatty():
        for line in [titles, *cells]:
            click.echo("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in line))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # A person's screen is narrow: a column that says nothing is left out, which a script must never see happen.
    kept = [at for at in range(len(titles)) if not cells or any(line[at] != "-" for line in cells)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at in kept:
        table.add_column(titles[at], overflow="fold", no_wrap=at < 2)
    for line in cells:
        table.add_row(*(Text(line[at], style=COLOURS.get(line[at], "")) for at in kept))
    Console().print(table)


def emit_pairs(pairs: Sequence[tuple[str, Any]]) -> None:
    """Names and values below each other; tab-separated into a pipe."""
    shown = [(name, _cell(value)) for name, value in pairs if value not in ("", None, [], {})]
    if not sys.stdout.isatty():
        for name, value in shown:
            click.echo(f"{name}\t{value}")
        return
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {paint(value)}")


def paint(word: str) -> str:
    """A state in its colour; click takes it away again where there is no terminal."""
    colour = COLOURS.get(word)
    return click.style(word, fg=colour) if colour else word


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(_cell(item) for item in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items()) or "-"
    return str(value) or "-"


def duration(seconds: float | None) -> str:
    """A length of time for people: `850 ms`, `12.3 s`, `4 min 10 s`, `3 h 5 min`."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def moment(seconds: float | None) -> str:
    """A time of day for people, in UTC."""
    return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))
