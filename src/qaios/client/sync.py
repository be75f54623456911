"""The same node for programs without an event loop: scripts, notebooks, tests.

`Portal` owns an event loop in a thread of its own, so that synchronous calls work inside a notebook too, whose cells
already run inside a loop. `SyncClient` is `Client` through such a portal.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from qaios.client.http import Client
from qaios.core.values import DeviceSpec
from qaios.schema.mission import MissionDocument
from qaios.schema.views import DeviceView, EventView, MissionReport, MissionView, NodeStatus, TaskView

T = TypeVar("T")


class Portal:
    """An event loop in a thread; `run` hands it a coroutine and waits for the answer."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name="qaios-portal", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._finish())
        finally:
            self._loop.close()

    async def _finish(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin it and return at once."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The coroutine's answer or exception; an interrupt here cancels it there."""
        future = self.start(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def retire(self) -> None:
        """Let the thread end soon; may be called from inside the loop."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def close(self) -> None:
        """End what still runs, then the thread."""
        self.retire()
        self._thread.join()


class SyncClient:
    """A running node, one blocking call at a time. Use with `with`."""

    def __init__(self, home: Path | None = None, *, timeout_s: float = 30.0) -> None:
        self._portal = Portal()
        try:
            self._client = self._portal.run(self._connect(home, timeout_s))
        except BaseException:
            self._portal.close()
            raise

    async def _connect(self, home: Path | None, timeout_s: float) -> Client:
        return Client.connect(home, timeout_s=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._portal.run(self._client.__aexit__(None, None, None))
        self._portal.close()

    def status(self) -> NodeStatus:
        return self._portal.run(self._client.status())

    def catalogue(self) -> Sequence[DeviceSpec]:
        return self._portal.run(self._client.catalogue())

    def devices(self) -> Sequence[DeviceView]:
        return self._portal.run(self._client.devices())

    def missions(self) -> Sequence[MissionView]:
        return self._portal.run(self._client.missions())

    def mission(self, mission: str) -> MissionView:
        return self._portal.run(self._client.mission(mission))

    def report(self, mission: str) -> MissionReport:
        return self._portal.run(self._client.report(mission))

    def plan(self, document: MissionDocument) -> Sequence[TaskView]:
        return self._portal.run(self._client.plan(document))

    def submit(self, document: MissionDocument, *, seed: int | None = None, key: str | None = None) -> str:
        return self._portal.run(self._client.submit(document, seed=seed, key=key))

    def cancel(self, mission: str, task: str | None = None) -> None:
        self._portal.run(self._client.cancel(mission, task))

    def resolve(self, mission: str, task: str, *, happened: bool) -> None:
        self._portal.run(self._client.resolve(mission, task, happened=happened))

    def events(self, after: int = 0, limit: int = 1000) -> Sequence[EventView]:
        return self._portal.run(self._client.events(after, limit))

    def watch(self, mission: str | None = None, after: int = 0) -> Iterator[EventView]:
        stream = self._client.watch(mission, after)
        while True:
            event = self._portal.run(_next(stream))
            if event is None:
                return
            yield event

    def artifact(self, sha256: str) -> bytes:
        return self._portal.run(self._client.artifact(sha256))

    def halt(self, device: str | None = None) -> Sequence[str]:
        return self._portal.run(self._client.halt(device))

    def release(self, device: str) -> None:
        self._portal.run(self._client.release(device))

    def shutdown(self) -> None:
        self._portal.run(self._client.shutdown())


async def _next(stream: Any) -> EventView | None:
    event: EventView | None = await anext(stream, None)
    return event
