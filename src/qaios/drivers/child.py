"""The far end of a worker: the loop that runs in the child process. See `qaios.drivers.worker` for the near end.

    worker (kernel's process)  ── [hello] [call, function, argument] ──▶  child   (its stdin)
                               ◀── [ready] [chunk, x]* [value | error] ──         (its stdout)

In come calls, one at a time: an import path `package.module:function` and one argument of plain data. Out go the
function's value, the chunks a generator yields on the way, or the error it raised. This module imports neither
asyncio nor numpy, since every worker pays for it at its start; what a function needs, that function imports.

The child never outlives the kernel: Linux kills it when its parent dies (also when it is stuck in native code),
elsewhere a thread watches the parent; and an end of its pipe ends it. Whatever is printed goes to the worker's log,
never among the frames.
"""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Callable
from typing import Any, BinaryIO

import msgspec

from qaios.core import errors

LENGTH = struct.Struct(">I")  # every frame: its length in bytes, then msgpack
FRAME_BYTES_MAX = 2**32 - 1


def encode_foreign(value: Any) -> Any:
    """numpy scalars and arrays travel as numbers and lists; anything else that is not plain data is refused."""
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} is not plain data")


ENCODER = msgspec.msgpack.Encoder(enc_hook=encode_foreign)


def frame(message: Any) -> bytes:
    """One message as it goes through the pipe. Raises `TypeError` where the message is not plain data."""
    body = ENCODER.encode(message)
    if len(body) > FRAME_BYTES_MAX:
        raise TypeError(f"{len(body)} bytes do not fit one message; pass a path or an artifact instead")
    return LENGTH.pack(len(body)) + body


def resolve(path: str) -> Callable[..., Any]:
    """The function named `package.module:function`. Raises `Refused`: another machine may have it installed."""
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise errors.Refused(f"'{path}' names no function", hint="Write it as package.module:function.")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        cause = "there is no module" if module_name.startswith(missing) else f"{module_name} needs the module"
        raise errors.Refused(
            f"{cause} '{missing}' here", hint="Install it, or name the folder it lies in with `path`."
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise errors.Refused(f"{module_name} has no '{attribute}'", hint="Check the spelling after the colon.")
        found = getattr(found, part)
    if not callable(found):
        raise errors.Refused(
            f"'{path}' is a {type(found).__name__}, not a function", hint="Name something that can be called."
        )
    return typing.cast(Callable[..., Any], found)


def die_with_parent(parent_pid: int) -> None:
    """Ask the system to kill this process when its parent ends; where it cannot, watch the parent."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
        if os.getppid() != parent_pid:  # it died before we asked
            os._exit(1)
    elif hasattr(os, "getppid") and os.name == "posix":

        def watch() -> None:
            while os.getppid() == parent_pid:
                time.sleep(1.0)
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def start_program(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program that dies with this process, whatever kills it. For functions that run in a worker."""
    if sys.platform == "linux":
        own_pid = os.getpid()
        options["preexec_fn"] = lambda: die_with_parent(own_pid)
    return subprocess.Popen(command, **options)


class Child:
    """The serving loop. `inbound` and `outbound` are the private pipes to the worker."""

    def __init__(self, inbound: BinaryIO, outbound: BinaryIO) -> None:
        self._inbound = inbound
        self._outbound = outbound
        self._argument_types: dict[Callable[..., Any], Any] = {}

    def serve(self) -> None:
        """Until the pipe ends."""
        while (message := self._receive()) is not None:
            self._answer(message)

    def _receive(self) -> Any:
        head = self._inbound.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        return msgspec.msgpack.decode(self._inbound.read(LENGTH.unpack(head)[0]))

    def _send(self, message: Any) -> None:
        rest = memoryview(frame(message))
        while rest:
            rest = rest[self._outbound.write(rest) :]

    def _answer(self, message: list[Any]) -> None:
        if message[0] == "hello":
            self._settle(message[1])
            self._send(["ready"])
            return
        _, path, argument = message
        try:
            self._send(["value", self._run(path, argument)])
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the border: every error travels to the caller
            self._send(["error", *describe(error)])

    def _settle(self, hello: dict[str, Any]) -> None:
        """Search modules where the parent does, and hand programs the environment the parent was given."""
        sys.path[:] = hello["path"]
        if hello["pythonpath"] is None:
            os.environ.pop("PYTHONPATH", None)
        else:
            os.environ["PYTHONPATH"] = hello["pythonpath"]

    def _run(self, path: str, argument: Any) -> Any:
        function = resolve(path)
        answer = function(self._fit(function, argument))
        if inspect.isgenerator(answer):
            try:
                while True:
                    self._send(["chunk", next(answer)])
            except StopIteration as end:
                return end.value
        if inspect.iscoroutine(answer):
            import asyncio

            return asyncio.run(answer)
        return answer

    def _fit(self, function: Callable[..., Any], argument: Any) -> Any:
        """A function that says it takes a Struct or a dataclass gets one, made from the plain data that travelled."""
        if function not in self._argument_types:
            self._argument_types[function] = argument_type(function)
        wanted = self._argument_types[function]
        if wanted is None:
            return argument
        try:
            return msgspec.convert(argument, wanted)
        except msgspec.ValidationError as error:
            raise errors.Invalid(f"{wanted.__name__}: {error}", hint="Send the fields it declares.") from error


def argument_type(function: Callable[..., Any]) -> Any:
    """The Struct or dataclass that the function's first parameter is annotated with, or None."""
    try:
        hints = typing.get_type_hints(function)
        first = next(iter(inspect.signature(function).parameters), None)
    except (NameError, TypeError, ValueError):  # annotations that only a type checker can see: the data goes in as is
        return None
    hint = hints.get(first or "")
    record = isinstance(hint, type) and (hasattr(hint, "__struct_fields__") or hasattr(hint, "__dataclass_fields__"))
    return hint if record else None


def describe(error: BaseException) -> tuple[str, str, bool, str, str]:
    """An error as it travels: its kind in our tree or "", its message, whether again may help, what to do, where."""
    where = "".join(f" ({place.filename}:{place.lineno} in {place.name})" for place in last_place(error))
    if isinstance(error, errors.QaiError):
        kind = next(base.__name__ for base in type(error).__mro__ if base.__module__ == errors.__name__)
        return kind, str(error), getattr(error, "retryable", False), error.hint, where
    return "", f"{type(error).__name__}: {error}", False, "", where


def last_place(error: BaseException) -> list[Any]:
    import traceback

    return list(traceback.extract_tb(error.__traceback__))[-1:]


def main() -> None:
    """`python -m qaios.drivers.child NAME PARENT_PID`, started by `Worker` only."""
    die_with_parent(int(sys.argv[2]))
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a ^C at the terminal is the kernel's to answer
    inbound = os.fdopen(os.dup(0), "rb")
    outbound = os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # what a function prints goes to the log, not among the frames
    os.close(nothing)
    try:
        Child(inbound, outbound).serve()
    except BrokenPipeError:
        sys.exit(1)  # the worker is gone and nobody waits for the answer


if __name__ == "__main__":
    main()
