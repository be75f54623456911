"""The connections of the world process: sockets in, frames out, who is who.

`Clients` owns the listening socket and every connection, and knows nothing of physics: it reads what is there,
checks the token of newcomers, and hands frames to the world's loop. Sockets are non-blocking; what a slow observer
does not take is buffered for it up to a limit, beyond which it is cut off, so that no client can stall the world.
"""

from __future__ import annotations

import hmac
import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from qaios.core.errors import Invalid
from qaios.worlds import wire

BUFFER_MAX_BYTES = 8 << 20
ROLES = frozenset({"vehicle", "clock", "observer"})


@dataclass(eq=False, slots=True)
class Client:
    """One connection. `role` is empty until it has joined."""

    socket: socket.socket
    role: str = ""
    name: str = ""
    index: int = -1  # of a vehicle
    acked_s: float = 0.0  # of a clock
    holding: bool = False  # a clock that is silent on purpose
    heard_wall_s: float = 0.0
    unframer: wire.Unframer = field(default_factory=wire.Unframer)
    unsent: bytearray = field(default_factory=bytearray)


class Clients:
    """All connections; `take(client, message)` is called for each frame, `lost(client)` once at its end."""

    def __init__(
        self, token: str, take: Callable[[Client, wire.ToWorld], None], lost: Callable[[Client], None]
    ) -> None:
        self._token = token.encode()
        self._take, self._lost = take, lost
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self.all: set[Client] = set()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def of(self, role: str) -> list[Client]:
        return [client for client in self.all if client.role == role]

    def poll(self, timeout_s: float) -> None:
        """Wait up to `timeout_s` for anything, and deal with all of it."""
        for key, events in self._selector.select(timeout_s):
            client = key.data
            if client is None:
                self._accept()
            elif client in self.all:
                if events & selectors.EVENT_WRITE:
                    self._flush(client)
                if events & selectors.EVENT_READ and client in self.all:
                    self._read(client)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(connection)
        self.all.add(client)
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _read(self, client: Client) -> None:
        try:
            chunk = client.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self.close(client)
            return
        try:
            for body in client.unframer.feed(chunk):
                self._dispatch(client, wire.to_world(body))
        except Invalid as error:
            self.deny(client, str(error))

    def _dispatch(self, client: Client, message: wire.ToWorld) -> None:
        if client.role:
            self._take(client, message)
        elif not isinstance(message, wire.Join):
            self.deny(client, "the first frame must be a join")
        elif not hmac.compare_digest(message.token.encode(), self._token):
            self.deny(client, "wrong token: read it from run/world.json of this home")
        elif message.role not in ROLES:
            self.deny(client, f"no role {message.role!r}: vehicle, clock or observer")
        else:
            client.role, client.name = message.role, message.name
            self._take(client, message)

    def deny(self, client: Client, why: str) -> None:
        """Say why and close."""
        self.send(client, wire.frame(wire.Denied(why)))
        self.close(client)

    def send(self, client: Client, packet: bytes) -> None:
        """Send or buffer; a client that takes nothing for long is cut off."""
        if client.unsent:
            client.unsent += packet
            if len(client.unsent) > BUFFER_MAX_BYTES:
                self.close(client)
            return
        try:
            sent = client.socket.send(packet)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close(client)
            return
        if sent < len(packet):
            client.unsent += packet[sent:]
            self._selector.modify(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)

    def _flush(self, client: Client) -> None:
        pending, client.unsent = bytes(client.unsent), bytearray()
        self._selector.modify(client.socket, selectors.EVENT_READ, client)
        self.send(client, pending)

    def close(self, client: Client) -> None:
        """Forget a connection."""
        if client not in self.all:
            return
        self.all.discard(client)
        self._selector.unregister(client.socket)
        client.socket.close()
        self._lost(client)

    def close_all(self) -> None:
        for client in list(self.all):
            self.close(client)
        self._selector.unregister(self._listener)
        self._listener.close()
        self._selector.close()
