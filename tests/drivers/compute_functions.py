"""Functions that the tests of the compute device call, as a mission would."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qaios.core.values import Result, TaskSpec


def add(a: float, b: float = 1) -> float:
    return a + b


def nothing() -> None:
    return None


def divide(a: float, b: float) -> float:
    return a / b


def confuse() -> None:
    len(3)  # type: ignore[arg-type]


def result() -> Result:
    return Result({"n": 1}, provenance={"method": "exact"}, spawn=(TaskSpec("next", "compute.call"),))


def result_as_dict(text: str = "a,b\n") -> dict[str, Any]:
    return {
        "value": 5,
        "artifacts": [{"name": "table.csv", "media_type": "text/csv", "content": text}],
        "spawn": [{"name": "next", "action": "compute.call", "arguments": {"call": "x:y"}}],
        "provenance": {"seed": 7},
    }


def misshapen() -> dict[str, Any]:
    return {"value": 1, "spawn": [{"action": "nameless"}]}


def only_value() -> dict[str, int]:
    return {"value": 3}


def array() -> Any:
    import numpy as np

    return {"grid": np.zeros((2, 2)), "peak": np.float32(0.5)}


def samples(count: int) -> Iterator[Any]:
    for number in range(count):
        yield {"sample": number}
    yield "last"
    return count  # type: ignore[return-value]


def hang(address: str) -> None:
    """Say that it runs, over the socket whose address is given, and never come back."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as line:
        line.sendall(f"{os.getpid()}".encode())
    while True:
        time.sleep(3600)


def die_if(number: int, fatal: int) -> int:
    if number == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def count_in(path: str) -> int:
    """Leave a mark for every time it runs."""
    with Path(path).open("a", encoding="ascii") as file:
        file.write("x")
    return len(Path(path).read_text(encoding="ascii"))
