"""The journal as the whole node reads it: what is durable, in order, numbered per event.

The kernel appends through the shelf and never notices it; doors read from it: `events` of the past, `watch` for
what comes. Nothing appears here before it is durable. Numbers start at 1 and are the same after every recovery,
because they count the events of the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from qaios.contracts import Journal
from qaios.core.events import Event


class Shelf:
    """A `Journal` in front of another one."""

    def __init__(self, inner: Journal) -> None:
        self._inner = inner
        self._listeners: list[Callable[[int, Sequence[Event]], None]] = []
        self._arrived = asyncio.Event()
        self.events: list[Event] = []
        self.closed = False

    async def append(self, events: Sequence[Event]) -> int:
        block = await self._inner.append(events)
        first = len(self.events) + 1
        self.events.extend(events)
        for listener in self._listeners:
            listener(first, events)
        self.wake()
        return block

    def read(self, after: int = 0) -> Iterator[tuple[int, Sequence[Event]]]:
        for block, events in self._inner.read(after):
            self.events.extend(events)
            yield block, events

    def listen(self, listener: Callable[[int, Sequence[Event]], None]) -> None:
        """Called with the number of the first event and the batch, after each append."""
        self._listeners.append(listener)

    def wake(self) -> None:
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()

    async def more(self, seen: int) -> None:
        """Return when there are more than `seen` events, or when the shelf was closed."""
        while len(self.events) <= seen and not self.closed:
            await self._arrived.wait()

    def close(self) -> None:
        self.closed = True
        self.wake()
        self._inner.close()
