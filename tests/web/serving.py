"""A door with a fake node behind it, really listening on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from qaios.client.http import Client
from qaios.client.node import Node
from qaios.web.door import WebDoor


@asynccontextmanager
async def served(node: Node, home: Path) -> AsyncIterator[Client]:
    door = WebDoor(node, home)
    listening = asyncio.Event()
    engine = asyncio.create_task(door.run(listening.set))
    try:
        waiting = asyncio.create_task(listening.wait())
        await asyncio.wait({waiting, engine}, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        if engine.done():
            engine.result()
        async with Client.connect(home) as client:
            yield client
    finally:
        engine.cancel()
        await asyncio.wait({engine})
