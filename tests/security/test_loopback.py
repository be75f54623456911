"""What is served in the clear is served to this machine alone."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import pytest

from qaios.security.loopback import is_loopback, listen, url_of


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.0.2.1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_only_numeric_addresses_of_this_machine_are_loopback(host: str, is_ours: bool) -> None:
    assert is_loopback(host) is is_ours


def test_connections_queue_at_once_and_name_their_protocol() -> None:
    with listen("127.0.0.1", 0) as listening:
        url = urlsplit(url_of(listening))
        with socket.create_connection((url.hostname or "", url.port or 0), timeout=10.0):
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.proto == socket.IPPROTO_TCP, "or asyncio leaves Nagle's algorithm on"


def test_an_address_that_is_taken_is_an_error() -> None:
    with listen("127.0.0.1", 0) as listening, pytest.raises(OSError, match="in use"):
        listen(*listening.getsockname()[:2])
