"""How a verb gets at a node: the running one of this home.

Everything here is synchronous outside and runs one coroutine inside, because a command line does one thing. An
interrupt cancels the coroutine, lets it tidy up, and comes out as KeyboardInterrupt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from qaios.client.node import Node

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """The coroutine's answer."""
    return asyncio.run(work)


def ask(question: Callable[[Node], Awaitable[T]]) -> T:
    """The running node's answer. Raises `Unreachable` when none is running."""

    async def connected() -> T:
        from qaios.client.http import Client

        async with Client.connect() as client:
            return await question(client)

    return run(connected())
