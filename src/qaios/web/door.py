"""The HTTP door: a node's facade as JSON over HTTP on this machine only, and its events as a stream.

The system makes it through the entry point `web` in `qaios.doors` and supervises it as an engine. It listens on a free
port of the loopback address and says where, and with which token, in `run/node.json`, which only the owner can read;
every request must bring that token. FastAPI and uvicorn are imported when it runs, not when it is named.

Beyond loopback nothing is served in the clear: any other address is refused.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from qaios.client.node import Door, Node
from qaios.client.run_files import remove_node_file, write_node_file
from qaios.contracts import Engine
from qaios.core.errors import Denied
from qaios.security.loopback import is_loopback, listen, url_of

CLOSE_MAX_S = 1.5  # what open requests get to end by themselves; streams are told to


class WebDoor:
    """Serves one node over HTTP until cancelled."""

    name: ClassVar[str] = "web"

    def __init__(self, node: Node, home: Path, *, host: str = "127.0.0.1", port: int = 0) -> None:
        if not is_loopback(host):
            raise Denied(
                f"the HTTP door does not listen on {host}: it has no encryption",
                hint="use 127.0.0.1, and a tunnel to reach it from elsewhere",
            )
        self._node = node
        self._home = home
        self._address = (host, port)
        self._token = secrets.token_urlsafe(32)

    async def run(self, ready: Callable[[], None]) -> None:
        """Listen, say where, serve; when cancelled end the streams and be gone within two seconds."""
        import uvicorn

        from qaios.web.app import make_app

        closing = asyncio.Event()
        listening = asyncio.Event()

        class Server(uvicorn.Server):
            """uvicorn as a guest in our loop: signals belong to the node, and starting is something to wait for."""

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                listening.set()

            @contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield

        app = make_app(self._node, self._token, closing)
        config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, server_header=False)
        server = Server(config)
        with listen(*self._address) as listener:
            serving = asyncio.create_task(server.serve([listener]), name="web-door")
            try:
                await _first(listening, serving)
                write_node_file(self._home, url=url_of(listener), token=self._token, started=time.time())
                ready()
                await asyncio.shield(serving)
            finally:
                remove_node_file(self._home, token=self._token)
                closing.set()
                server.should_exit = True
                done, _ = await asyncio.wait({serving}, timeout=CLOSE_MAX_S)
                if not done:
                    server.force_exit = True
                    serving.cancel()
                    await asyncio.wait({serving})


async def _first(listening: asyncio.Event, serving: asyncio.Task[None]) -> None:
    """Return when it listens; raise what it died of when it does not get there."""
    waiting = asyncio.create_task(listening.wait())
    try:
        await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if not listening.is_set():
        serving.result()


def _make(node: Node, home: str) -> Engine:
    return WebDoor(node, Path(home))


DOOR = Door(name="web", make=_make)
