"""A place where a process under test can say that it runs: tests wait for its word, never for time to pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def listening(callers: int = 1) -> AsyncIterator[tuple[str, asyncio.Future[list[int]]]]:
    """Yields an address "host:port" on loopback, and a future of the numbers sent there by so many callers.

    Each caller connects, sends numbers as text with spaces between, and closes.
    """
    said: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    numbers: list[int] = []
    heard = 0

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        numbers.extend(int(word) for word in (await reader.read()).split())
        writer.close()
        heard += 1
        if heard == callers and not said.done():
            said.set_result(numbers)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}", said
