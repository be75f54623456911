"""What happens while a mission runs, told on stderr.

On a terminal one line renews itself and only what went wrong stays; elsewhere each event is a line.
"""

from __future__ import annotations

import shutil
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

if TYPE_CHECKING:
    from qaios.schema.views import EventView

# On a terminal most events only renew the line; these stay to be read.
NOTABLE = (
    "AttemptsFailed",
    "AttemptsUnknown",
    "TasksRerouted",
    "RepairRefused",
    "TasksAdded",
    "DeadlineMissed",
    "Halted",
)
SILENT = ("ChunkEmitted",)


class Progress:
    """Tells events; use with `with`, so that the terminal's line is left clean."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._began_s: float | None = None
        self._count = 0
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def tell(self, event: EventView) -> None:
        if self._quiet or event.kind in SILENT:
            return
        if self._began_s is None:
            self._began_s = event.at
        line = f"{max(0.0, event.at - self._began_s):7.1f} s  {event.text}"
        if not self._live:
            click.echo(line, err=True)
            return
        self._clear()
        if event.kind in NOTABLE:
            click.echo(line, err=True)
        else:
            width = shutil.get_terminal_size().columns - 1
            click.echo(line[:width], err=True, nl=False)
            self._open = True

    def _clear(self) -> None:
        if self._open:
            click.echo("\r\x1b[K", err=True, nl=False, color=True)
            self._open = False
