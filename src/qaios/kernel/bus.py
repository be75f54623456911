"""In-process fan-out of batches.

`publish(topic, batch)` hands the batch itself to every listener: no copy, no message per item. Engines listen by
synchronous callback; doors subscribe to a bounded queue of batches that drops the oldest when its reader is slow
and counts what it dropped, so that nobody can hold the kernel. A callback that raises is taken off the bus and
its error handed to `on_error`; the others still get the batch.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

Callback = Callable[[Sequence[Any]], None]


class _Listener:
    """One registration: the same callback may be on a topic twice and is taken off one at a time."""

    def __init__(self, callback: Callback) -> None:
        self.call = callback


class Subscription:
    """One bounded queue of batches. `dropped` counts batches its reader was too slow for."""

    def __init__(self, batches_max: int) -> None:
        self.dropped = 0
        self._batches: deque[Sequence[Any]] = deque(maxlen=batches_max)
        self._arrived = asyncio.Event()

    def put(self, batch: Sequence[Any]) -> None:
        if len(self._batches) == self._batches.maxlen:
            self.dropped += 1
        self._batches.append(batch)
        self._arrived.set()

    def __aiter__(self) -> AsyncIterator[Sequence[Any]]:
        return self

    async def __anext__(self) -> Sequence[Any]:
        while not self._batches:
            self._arrived.clear()
            await self._arrived.wait()
        return self._batches.popleft()


class LocalBus:
    """The bus of one node. Used from one event loop only."""

    def __init__(self, on_error: Callable[[str, Exception], None]) -> None:
        self._listeners: dict[str, list[_Listener]] = defaultdict(list)
        self._on_error = on_error

    def publish(self, topic: str, batch: Sequence[Any]) -> None:
        for listener in tuple(self._listeners.get(topic, ())):
            try:
                listener.call(batch)
            except Exception as error:  # noqa: BLE001 - a listener is not ours; the boundary converts
                self._drop(topic, listener)
                self._on_error(topic, error)

    def listen(self, topic: str, callback: Callback) -> Callable[[], None]:
        listener = _Listener(callback)
        self._listeners[topic].append(listener)
        return lambda: self._drop(topic, listener)

    def _drop(self, topic: str, listener: _Listener) -> None:
        if listener in self._listeners[topic]:
            self._listeners[topic].remove(listener)

    @asynccontextmanager
    async def subscribe(self, topic: str, *, batches_max: int = 256) -> AsyncIterator[Subscription]:
        subscription = Subscription(batches_max)
        stop = self.listen(topic, subscription.put)
        try:
            yield subscription
        finally:
            stop()
