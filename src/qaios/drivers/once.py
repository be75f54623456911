"""One effect per key: what every device owes the kernel, written once.

    first  execute(key) ──▶ starts the work ──▶ Result
    second execute(key) ──▶ joins it        ──▶ the same Result     (also later: the result is kept)

A driver wraps the body of its `execute` in `Once.run`. Whoever is cancelled leaves; when the last one that waits
is cancelled the work itself is cancelled, and `CancelledError` escapes only after the work has ended, so the body
must return only when its device has confirmed. A failure is not kept: the next attempt, with the same key, tries
again. Results are kept in memory, the last `kept_max` of them; what must survive the process needs a ledger on disk
(`drivers.ledger`) or a device that remembers. `admit` refuses a kernel that another has replaced.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from qaios.core.errors import Refused
from qaios.core.values import Done, Never, Recall, Result, Running


class Once:
    """The keys one device is working on, and the results of those it has done."""

    def __init__(self, kept_max: int = 4096) -> None:
        self._kept_max = kept_max
        self._results: OrderedDict[str, Result] = OrderedDict()
        self._work: dict[str, asyncio.Task[Result]] = {}
        self._waiting: dict[str, int] = {}
        self._epoch = 0

    @property
    def busy(self) -> int:
        """How many keys are being worked on."""
        return len(self._work)

    def admit(self, epoch: int) -> None:
        """Raise `Refused` for a kernel older than one that was served; called before anything is done for it."""
        if epoch < self._epoch:
            raise Refused(f"kernel epoch {epoch} is over, {self._epoch} has begun")
        self._epoch = epoch

    async def run(self, key: str, begin: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """The result of the work for this key: begun now, joined, or remembered. Raises what the work raises."""
        if key in self._results:
            return self._results[key]
        work = self._work.get(key)
        if work is None:
            work = asyncio.create_task(begin(), name=f"execute {key}")
            self._work[key] = work
            work.add_done_callback(lambda ended: self._settle(key, ended))
        self._waiting[key] = self._waiting.get(key, 0) + 1
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if self._waiting[key] == 1 and not work.done():
                work.cancel()
                await _end_of(work)
            raise
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]

    def recall(self, key: str) -> Recall:
        """What became of a key, as far as this process knows: `Never` means never begun *here*."""
        if key in self._results:
            return Done(self._results[key])
        return Running(key) if key in self._work else Never()

    async def close(self) -> None:
        """Cancel all work and wait until it has ended."""
        for work in (ending := list(self._work.values())):
            work.cancel()
        for work in ending:
            await _end_of(work)

    def _settle(self, key: str, work: asyncio.Task[Result]) -> None:
        del self._work[key]
        if work.cancelled() or work.exception() is not None:
            return
        self._results[key] = work.result()
        while len(self._results) > self._kept_max:
            self._results.popitem(last=False)


async def _end_of(work: asyncio.Task[Result]) -> None:
    """Wait until it has ended; being cancelled again and again does not shorten that."""
    interrupted: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait((work,))
        except asyncio.CancelledError as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted
