"""Loopback, the only place where anything is served in the clear.

The HTTP door and the hub speak plain HTTP with a token, which is for this machine alone. Both ask here whether an
address is of this machine, and both listen through here.
"""

from __future__ import annotations

import ipaddress
import socket

_BACKLOG = 128


def is_loopback(host: str) -> bool:
    """Whether this is an address of this machine alone. Numeric ones only: a name may mean something else tomorrow."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket on which connections queue from now on; port 0 takes a free one. Raises `OSError` when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named so that asyncio sets TCP_NODELAY on what it accepts; without, each answer waits 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def url_of(listening: socket.socket) -> str:
    """Where it is reached, as `http://host:port`."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
