"""What the compute device runs in its workers: one call, thousands of calls, one program.

In comes plain data, out goes a *result as plain data*: a mapping with `value`, and `artifacts`, `provenance`,
`spawn` where there are any. The functions called are other people's; what they return is taken like this:

    Result(...)                                       as it is
    {"value": …, "artifacts" | "provenance" | "spawn": …}   a result written as a dict (at least one of the three,
                                                      and no other key), so that a function need not import us
    anything else                                     the value

This module is imported in every worker, so it stays as light as the child itself.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import IO, Any

from qaios.core.errors import DeviceFault, Invalid, QaiError, Refused
from qaios.drivers.child import ENCODER, last_place, resolve, start_program

OUTPUT_BYTES_MAX = 1024 * 1024  # of each stream of a program, the end of it

_PARTS = {"value", "artifacts", "provenance", "spawn"}
_EXTRAS = _PARTS - {"value"}


def call(request: dict[str, Any]) -> Generator[Any, None, dict[str, Any]]:
    """One call: `{call, args, kwargs}`. Yields what a generator function yields."""
    path = request["call"]
    function = resolve(path)
    began_s = time.perf_counter()
    try:
        answer = _apply(function, path, request["args"], request["kwargs"])
        if inspect.isgenerator(answer):
            answer = yield from answer
        elif inspect.iscoroutine(answer):
            answer = _awaited(answer)
    except (Exception, SystemExit) as error:
        if isinstance(error, QaiError):
            raise
        # A call may run again, so what it raised may be tried again, as often as its task says.
        raise DeviceFault(_raised(error, path)) from error
    return {**shape(answer), "duration_s": time.perf_counter() - began_s}


def call_many(request: dict[str, Any]) -> dict[str, Any]:
    """Many calls: `{calls, which, args, kwargs}`, columns of equal length; `which` indexes `calls`.

    Returns `{blobs, failed, duration_s}`: per call MessagePack of its result, or of its failure (see `BatchOutcome`)
    where its index is in `failed`. One call's failure is its own.
    """
    began_s = time.perf_counter()
    functions = [_resolved(path) for path in request["calls"]]
    encode = ENCODER.encode
    blobs: list[bytes] = []
    failed: list[int] = []
    for which, args, kwargs in zip(request["which"], request["args"], request["kwargs"], strict=True):
        try:
            answer = functions[which](*args, **kwargs)
            kind = type(answer)
            if kind is not int and kind is not float and kind is not str:  # what is plain at first sight stays so
                answer = _settled(answer)
                blobs.append(encode(shape(answer)))
            else:
                blobs.append(encode({"value": answer, "spawn": ()}))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the border: each error goes to its own task
            failed.append(len(blobs))
            blobs.append(encode(_explain(error, request["calls"][which], args, kwargs)))
    return {"blobs": blobs, "failed": failed, "duration_s": time.perf_counter() - began_s}


def shape(answer: Any) -> dict[str, Any]:
    """What a function returned, as a result in plain data."""
    values = sys.modules.get("qaios.core.values")  # only there when the function itself uses it
    if values is not None and isinstance(answer, values.Result):
        return {
            "value": answer.value,
            "artifacts": list(answer.artifacts),
            "provenance": dict(answer.provenance),
            "spawn": list(answer.spawn),
        }
    if type(answer) is dict and not _EXTRAS.isdisjoint(answer) and _PARTS.issuperset(answer):
        return {"value": None, "artifacts": [], "spawn": (), **answer}
    return {"value": answer, "spawn": ()}  # said aloud, so that the kernel need not look inside to know


def run_program(request: dict[str, Any]) -> dict[str, Any]:
    """One program: `{command, cwd, env, stdin}`. Returns `{exit_code, stdout, stderr, …_dropped_bytes}`."""
    try:
        program = start_program(
            request["command"],
            cwd=request["cwd"],
            env={**os.environ, **request["env"]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise Refused(f"there is no '{error.filename}' here", hint="Install it or give its full path.") from error
    except (PermissionError, NotADirectoryError) as error:
        raise Refused(str(error), hint="Give a program that may be run, and a folder.") from error
    output, complaint = _Tail(program.stdout), _Tail(program.stderr)
    assert program.stdin is not None
    try:
        program.stdin.write(request["stdin"])
        program.stdin.close()
    except BrokenPipeError:
        complaint.note(b"(it did not read all of its input)\n")
    program.wait()
    return {
        "exit_code": program.returncode,
        "stdout": output.text(),
        "stderr": complaint.text(),
        "stdout_dropped_bytes": output.dropped_bytes,
        "stderr_dropped_bytes": complaint.dropped_bytes,
    }


class _Tail:
    """Reads a stream to its end in a thread of its own and keeps the last of it."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        assert stream is not None
        self._stream = stream
        self._pieces: deque[bytes] = deque()
        self._kept_bytes = 0
        self.dropped_bytes = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def note(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._kept_bytes += len(piece)
        while self._kept_bytes - len(self._pieces[0]) >= OUTPUT_BYTES_MAX:
            dropped = len(self._pieces.popleft())
            self._kept_bytes -= dropped
            self.dropped_bytes += dropped

    def text(self) -> str:
        # A program of the program may hold the stream open; what it writes later is not waited for.
        self._thread.join(timeout=1.0)
        return b"".join(self._pieces).decode(errors="replace")

    def _read(self) -> None:
        while piece := os.read(self._stream.fileno(), 65536):
            self.note(piece)


def _apply(function: Callable[..., Any], path: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    try:
        return function(*args, **kwargs)
    except TypeError as error:
        misfit = _misfit(function, error, args, kwargs)
        if misfit:
            raise Refused(f"{path} cannot be called like this: {misfit}", hint="Check `args` and `kwargs`.") from error
        raise


def _misfit(function: Callable[..., Any], error: TypeError, args: list[Any], kwargs: dict[str, Any]) -> str:
    """Why these arguments do not fit, or "" where the error came from inside the function."""
    place = error.__traceback__
    if place is None or place.tb_next is not None:
        return ""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as misfit:
        return str(misfit)
    except ValueError:  # a built-in without a signature: its own words are the best there are
        return str(error)
    return ""


def _resolved(path: str) -> Callable[..., Any]:
    """The function, or one that refuses: in a batch a wrong path is the failure of the tasks that name it."""
    try:
        return resolve(path)
    except Exception as error:  # noqa: BLE001 - importing other people's modules may raise anything
        refusal = error

        def refuse(*_args: Any, **_kwargs: Any) -> Any:
            raise refusal

        return refuse


def _settled(answer: Any) -> Any:
    """A generator is run to its end (a batch shows no chunks), a coroutine is awaited."""
    if inspect.isgenerator(answer):
        try:
            while True:
                next(answer)
        except StopIteration as end:
            return end.value
    return _awaited(answer) if inspect.iscoroutine(answer) else answer


def _awaited(answer: Any) -> Any:
    import asyncio

    return asyncio.run(answer)


def _explain(error: BaseException, path: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """A failure inside a batch, as `BatchOutcome` has it: the same kinds that a call alone ends with."""
    if isinstance(error, QaiError):
        text = f"{error} {error.hint}".strip()
        return {"refused": text} if isinstance(error, Refused | Invalid) else text
    if isinstance(error, TypeError):
        try:
            misfit = _misfit(resolve(path), error, args, kwargs)
        except QaiError:
            misfit = ""
        if misfit:
            return {"refused": f"{path} cannot be called like this: {misfit}. Check `args` and `kwargs`."}
    return _raised(error, path)


def _raised(error: BaseException, path: str) -> str:
    where = "".join(f" ({place.filename}:{place.lineno} in {place.name})" for place in last_place(error))
    return f"{path} raised {type(error).__name__}: {error}{where}"
