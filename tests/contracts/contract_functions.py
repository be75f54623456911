"""What the compute device runs while its promises are tested."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path


def mark(path: str) -> int:
    with Path(path).open("a", encoding="ascii") as file:
        file.write("x")
    return 1


def add(a: int, b: int) -> int:
    return a + b


def run_for_ever() -> Iterator[dict[str, bool]]:
    yield {"begun": True}
    while True:
        time.sleep(3600)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
