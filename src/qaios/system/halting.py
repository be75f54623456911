"""The halt table: how to stop every device, as data any process can act on.

Whenever a device opens, closes or is lost the node writes `run/halt.json` anew; `qai halt` carries the recipes out
itself, with the standard library only, so a stop works while the kernel is busy, stuck or dead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from qaios.core.values import HaltRecipe


class HaltEntry(msgspec.Struct, frozen=True):
    device: str
    recipes: list[HaltRecipe]


def write_recipes(home: Path, recipes: Mapping[str, Sequence[HaltRecipe]]) -> None:
    """Atomic: a reader sees the old table or the new one, never half of one."""
    path = home / "run" / "halt.json"
    table = [HaltEntry(device, list(each)) for device, each in recipes.items() if each]
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(table))
    fresh.replace(path)
