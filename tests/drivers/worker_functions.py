"""Functions that the tests run in workers: by import path, as a mission would."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from qaios.core.errors import DeviceFault, DeviceLost, Invalid, OutcomeUnknown, Refused
from qaios.drivers.child import start_program

NOT_A_FUNCTION = 3


class Circuit(msgspec.Struct):
    text: str
    shots: int = 100


def echo(value: Any) -> Any:
    return value


def take_circuit(circuit: Circuit) -> dict[str, Any]:
    return {"text": circuit.text, "shots": circuit.shots, "kind": type(circuit).__name__}


def own_pid(_: Any) -> int:
    return os.getpid()


def count_to(limit: int) -> Iterator[dict[str, int]]:
    for number in range(limit):
        yield {"n": number}
    return limit * 10  # type: ignore[return-value]


async def answer_later(value: int) -> int:
    return value + 1


def hang(marker: str) -> None:
    """Say that it runs, over the socket whose address is given, and never come back."""
    host, port = marker.split(":")
    with socket.create_connection((host, int(port))) as line:
        line.sendall(f"{os.getpid()}".encode())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    while True:
        time.sleep(3600)


def hang_with_program(marker: str) -> None:
    """The same with a program of its own, whose pid is what is said."""
    program = start_program([sys.executable, "-c", "import time; time.sleep(3600)"])
    host, port = marker.split(":")
    with socket.create_connection((host, int(port))) as line:
        line.sendall(f"{os.getpid()} {program.pid}".encode())
    program.wait()


def leave_program_behind(_: Any) -> int:
    """Start a program in a session of its own that keeps our standard error open."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True).pid


def die(_: Any) -> None:
    print("the last words", file=sys.stderr)  # noqa: T201 - printing is what is tested
    os.kill(os.getpid(), signal.SIGKILL)


def leave(code: int) -> None:
    sys.exit(code)


def divide(value: int) -> float:
    return 1 / value


def refuse(_: Any) -> None:
    raise Refused("too many qubits", hint="Use fewer.")


def find_invalid(_: Any) -> None:
    raise Invalid("shots must be positive")


def lose(_: Any) -> None:
    raise DeviceLost("the cable is out")


def fail_for_good(_: Any) -> None:
    raise DeviceFault("burnt", retryable=False)


def not_know(_: Any) -> None:
    raise OutcomeUnknown("sent, no answer")


def give_object(_: Any) -> object:
    return object()


def give_array(_: Any) -> Any:
    import numpy as np

    return {"a": np.arange(3), "b": np.float64(0.5)}


def chatter(size_bytes: int) -> str:
    print("x" * size_bytes)  # noqa: T201 - printing is what is tested
    subprocess.run([sys.executable, "-c", "print('from a program')"], check=True)
    return "done"


def modules(_: Any) -> list[str]:
    return sorted(sys.modules)
