"""A worker: one killable child process that does one call at a time.

Drivers use it for what is heavy or may hang: SDKs that block, native code, other people's functions. In comes an
import path and one argument of plain data; out comes the function's value, and on the way the chunks a generator
yields. The child's loop is `qaios.drivers.child`.

    worker = Worker("aer-0")
    counts = await worker.call("qaios.quantum.sample:sample", {"qasm": text, "shots": 1000})
    await worker.stop()

Why a process and not a thread: a thread cannot be stopped. Cancelling a call kills the child with all it started
(its process group) and waits until the system confirms the death; only then does `CancelledError` escape, so a
device that says "stopped" has stopped. The next call starts a new child. The event loop never blocks on it.

The child is started with exec, never by a bare fork (the kernel's process has threads). It must be started from a
thread that lives as long as the worker shall, as a rule the one the event loop runs in: Linux sends the parent-death
signal when the *thread* that started a child ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from qaios.core import errors
from qaios.drivers.child import LENGTH, frame

LOG_BYTES_MAX = 64 * 1024
START_S_MAX = 60.0
GRACE_S = 1.0  # what a child is given to end by itself once its pipe has ended

_PARENT_OF_PACKAGE = str(Path(errors.__file__).resolve().parents[2])


def started_s(pid: int) -> float:
    """When a process started, in seconds since the machine booted; 0.0 where the system does not tell.

    With the pid it names one process for good: pids are used again, this pair is not.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    ticks = float(text.rpartition(")")[2].split()[19])  # field 22 of proc(5), counted after the name in brackets
    return ticks / float(os.sysconf("SC_CLK_TCK"))


class ChildDied(errors.DeviceFault):
    """The child ended in the middle of a call, by itself or because somebody killed it."""


class Worker:
    """One child process at a time, started when first needed.

    `path` is where the child looks for modules, before what this process has in `sys.path`.
    `environment` is added to this process's environment. `on_log` gets what the child prints, as it comes.
    """

    def __init__(
        self,
        name: str,
        *,
        path: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        on_log: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self._path = tuple(path)
        self._environment = dict(environment or {})
        self._on_log = on_log
        self._lines = _Log()
        self._pipe: _Pipe | None = None
        self._turn = asyncio.Lock()
        self._calling = False
        self._kills = 0

    @property
    def pid(self) -> int | None:
        """The child's process id, and its process group; None while there is none."""
        return self._pipe.pid if self._pipe is not None and self._pipe.alive else None

    @property
    def started_s(self) -> float:
        """When the child started, in seconds since boot: with `pid` it is what a `SignalHalt` needs."""
        return started_s(self.pid) if self.pid is not None else 0.0

    @property
    def busy(self) -> bool:
        return self._calling

    @property
    def log(self) -> str:
        """The last 64 KiB of what the child printed or wrote to its standard error."""
        return self._lines.text()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the child and wait until it is ready; nothing happens when there is one. Raises `DeviceFault`."""
        async with self._turn:
            await self._ensure_started()

    async def call(self, function: str, argument: Any = None, on_chunk: Callable[[Any], None] | None = None) -> Any:
        """Run `package.module:function` with the argument in the child and return its value.

        Argument, chunks and value are plain data (None, bool, int, float, str, bytes, list, dict, Structs).
        A function whose parameter is annotated with a Struct gets one. One call at a time; others wait their turn.
        Raises what the function raised when that is a `QaiError` (`Refused`, `Invalid`, …), `DeviceFault` that
        is not retryable for any other exception, and `ChildDied` (retryable) when the child died.
        Cancelled: the child is dead when `CancelledError` comes out.
        """
        try:
            request = frame(["call", function, argument])
        except TypeError as error:
            raise errors.Invalid(f"{function} was given what cannot travel: {error}", hint=_PLAIN) from error
        kills = self._kills
        async with self._turn:
            await self._ensure_started()
            assert self._pipe is not None
            if self._kills != kills:
                raise ChildDied(f"worker {self.name} was killed before it was given {function}")
            self._calling = True
            try:
                self._pipe.send(request)
                return await self._answer(function, on_chunk)
            except _ChildError as error:
                raise error.travelled from None
            except BaseException:
                # Cancelled, died, or the chunk's taker failed: in the middle of a call the child is of no more use.
                await self._bury()
                raise
            finally:
                self._calling = False

    def kill(self) -> None:
        """Kill the child and all it started, now, without waiting. Calls in progress or in line raise `ChildDied`."""
        self._kills += 1
        if self._pipe is not None:
            self._pipe.kill()

    async def ended(self) -> None:
        """Return when there is no living child; at once where there is none."""
        if self._pipe is not None:
            await asyncio.wait((self._pipe.exited,))

    async def stop(self) -> None:
        """End the child: gently when it is idle, at once when it is busy. It is dead when this returns."""
        if self._calling:
            self.kill()
        async with self._turn:
            try:
                if self._pipe is not None and self._pipe.alive:
                    self._pipe.hang_up()
                    await asyncio.wait((self._pipe.exited,), timeout=GRACE_S)
            finally:
                await self._bury()

    async def _ensure_started(self) -> None:
        if self._pipe is not None and self._pipe.alive:
            return
        await self._bury()  # the pipes of one that died between two calls
        self._pipe = await self._spawn()
        try:
            async with asyncio.timeout(START_S_MAX):
                self._pipe.send(
                    frame(["hello", {"path": self._search_path(), "pythonpath": os.environ.get("PYTHONPATH")}])
                )
                if await self._pipe.receive() != ["ready"]:
                    raise errors.DeviceFault(f"worker {self.name} cannot be started: {self.log.strip()[-500:]}")
        except BaseException as error:
            await self._bury()
            if isinstance(error, TimeoutError):
                raise errors.DeviceFault(f"worker {self.name} was not ready in {START_S_MAX:.0f} s") from error
            raise

    def _search_path(self) -> list[str]:
        return [*self._path, *(entry or str(Path.cwd()) for entry in sys.path)]

    async def _spawn(self) -> _Pipe:
        loop = asyncio.get_running_loop()
        environment = {**os.environ, **self._environment, "PYTHONPATH": _PARENT_OF_PACKAGE}
        command = (sys.executable, "-u", "-P", "-m", "qaios.drivers.child", self.name, str(os.getpid()))
        try:
            _, pipe = await loop.subprocess_exec(
                lambda: _Pipe(self._keep), *command, env=environment, start_new_session=os.name == "posix"
            )
        except OSError as error:
            raise errors.DeviceFault(f"worker {self.name} cannot be started: {error}") from error
        return pipe

    def _keep(self, text: bytes) -> None:
        self._lines.add(text)
        if self._on_log is not None:
            self._on_log(text.decode(errors="replace"))

    async def _answer(self, function: str, on_chunk: Callable[[Any], None] | None) -> Any:
        assert self._pipe is not None
        while (message := await self._pipe.receive()) is not None:
            match message:
                case ["chunk", chunk]:
                    if on_chunk is not None:
                        on_chunk(chunk)
                case ["value", value]:
                    return value
                case ["error", kind, text, retryable, hint, where]:
                    raise _ChildError(_travelled(function, kind, text, retryable, hint, where))
        await asyncio.wait((self._pipe.exited,), timeout=GRACE_S)  # so that the fault can say how it ended
        last = self.log.strip().splitlines()[-1:]
        raise ChildDied(
            f"worker {self.name} {self._pipe.ending()} while calling {function}",
            hint=f"Its last words: {last[0]}" if last else "",
        )

    async def _bury(self) -> None:
        """Kill what is left of the child and wait for the system's word that it is dead, whoever interrupts."""
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return
        pipe.kill()
        interrupted: asyncio.CancelledError | None = None
        while not pipe.exited.done():
            try:
                await asyncio.wait((pipe.exited,))
            except asyncio.CancelledError as error:
                interrupted = error
        pipe.close()
        if interrupted is not None:
            raise interrupted


_PLAIN = "Use None, bool, int, float, str, bytes, list and dict only."


class _ChildError(Exception):
    """An error the function raised, as opposed to one of the worker itself: the child lives on."""

    def __init__(self, travelled: errors.QaiError) -> None:
        super().__init__(str(travelled))
        self.travelled = travelled


def _travelled(function: str, kind: str, text: str, retryable: bool, hint: str, where: str) -> errors.QaiError:
    """The error of the far side, made again on this side."""
    known = getattr(errors, kind, None) if kind else None
    if known is None:
        return errors.DeviceFault(f"{function} raised {text}{where}", retryable=False, hint=hint)
    if known is errors.MissionInvalid:  # its faults do not travel, their text does
        return errors.Invalid(text, hint=hint)
    if issubclass(known, errors.DeviceFault) and known is not errors.OutcomeUnknown:
        fault: errors.QaiError = known(text, retryable=retryable, hint=hint)
        return fault
    error: errors.QaiError = known(text, hint=hint)
    return error


class _Log:
    """The last of what was printed, bounded."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size_bytes = 0

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece[-LOG_BYTES_MAX:])
        self._size_bytes += len(self._pieces[-1])
        while self._size_bytes - len(self._pieces[0]) >= LOG_BYTES_MAX:
            self._size_bytes -= len(self._pieces.popleft())

    def text(self) -> str:
        return b"".join(self._pieces)[-LOG_BYTES_MAX:].decode(errors="replace")


class _Pipe(asyncio.SubprocessProtocol):
    """The near end of one child: frames in, frames out, and the word of its death.

    asyncio's own `Process.wait` returns only when every pipe is closed too, and a program that escaped the process
    group can hold one open for ever; `exited` here is the death of the child and nothing else.
    """

    def __init__(self, keep: Callable[[bytes], None]) -> None:
        self._keep = keep
        self._buffer = bytearray()
        self._frames: asyncio.Queue[Any] = asyncio.Queue()
        self._transport: asyncio.SubprocessTransport | None = None
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pid = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._transport = transport
        self.pid = transport.get_pid()

    @property
    def alive(self) -> bool:
        return not self.exited.done()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._keep(data)
            return
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= LENGTH.size:
            end = start + LENGTH.size + LENGTH.unpack_from(self._buffer, start)[0]
            if len(self._buffer) < end:
                break
            with memoryview(self._buffer) as view:
                self._frames.put_nowait(msgspec.msgpack.decode(view[start + LENGTH.size : end]))
            start = end
        del self._buffer[:start]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self._frames.put_nowait(None)

    def process_exited(self) -> None:
        self._kill_group()  # what a crashed child had started goes with it
        self.exited.set_result(None)
        # The end of the pipe normally follows at once; a program that holds it open shall not keep the caller waiting.
        asyncio.get_running_loop().call_later(GRACE_S, self._frames.put_nowait, None)

    async def receive(self) -> Any:
        """The next message; None when the child has ended."""
        return await self._frames.get()

    def send(self, request: bytes) -> None:
        writer = self._writer()
        if writer is not None:
            writer.write(request)

    def hang_up(self) -> None:
        writer = self._writer()
        if writer is not None:
            writer.close()

    def kill(self) -> None:
        """The child and its whole process group; nothing happens when it is dead."""
        if self.exited.done() or self._transport is None:
            return
        if os.name == "posix":
            # Not by the transport: its `kill` polls first, and so may take the child's exit status from asyncio.
            self._kill_group()
        else:
            with contextlib.suppress(ProcessLookupError):
                self._transport.kill()

    def _kill_group(self) -> None:
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError, PermissionError):  # nothing of it is left
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def ending(self) -> str:
        """How it ended, in words."""
        code = self._transport.get_returncode() if self._transport is not None else None
        if code is None:
            return "closed its pipe"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def _writer(self) -> asyncio.WriteTransport | None:
        transport = self._transport.get_pipe_transport(0) if self._transport is not None else None
        assert transport is None or isinstance(transport, asyncio.WriteTransport)
        return transport
