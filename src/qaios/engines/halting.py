"""The halt table: how to stop every device, as data any process can act on.

Twice a second this engine writes `run/halt.json` anew if anything changed: workers come and go with every call, and
a stop must find them. `qai halt` carries the recipes out itself, with the standard library only, so a stop works
while the kernel is busy, stuck or dead. The table stays when the kernel dies: that is when it is needed most.
It runs on the machine's own time, because a stop does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from qaios.core.values import HaltRecipe
from qaios.security.files import write_durably

PERIOD_S = 0.5

Recipes = Callable[[], Mapping[str, Sequence[HaltRecipe]]]


class HaltEntry(msgspec.Struct, frozen=True):
    device: str
    recipes: list[HaltRecipe]


class HaltTable:
    """Implements `Engine`. `recipes` gives those of every open device."""

    name: ClassVar[str] = "halt-table"

    def __init__(self, home: Path, recipes: Recipes) -> None:
        self._path = home / "run" / "halt.json"
        self._recipes = recipes
        self._written = b""

    async def run(self, ready: Callable[[], None]) -> None:
        self.write()
        ready()
        while True:
            await asyncio.sleep(PERIOD_S)
            table = self._table()
            if table != self._written:
                # Off the loop: a sync to disk takes milliseconds, sometimes many.
                await asyncio.to_thread(write_durably, self._path, table)
                self._written = table

    def write(self) -> None:
        """Now. Atomic: a reader sees the old table or the new one, never half of one."""
        self._written = self._table()
        write_durably(self._path, self._written)

    def _table(self) -> bytes:
        return msgspec.json.encode([HaltEntry(device, list(each)) for device, each in self._recipes().items() if each])
