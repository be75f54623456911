"""What stands around a node and is not part of it: the simulated world, the local hub.

Both are processes of their own that outlive a kernel killed in mid-air, because the air and the hub would. The node
starts them when a mission first needs them, finds them again after a crash, follows the world's clock, and stops on
a good shutdown what it, or its earlier life, had started.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from qaios.system.clock import NodeClock
from qaios.system.config import Settings

_log = logging.getLogger("qaios.surroundings")

WORLD_ACTIONS = ("drone.", "air.", "world.")
HUB_ACTIONS = ("hub.",)


class Surroundings:
    """The world and the hub of one node."""

    def __init__(self, settings: Settings, clock: NodeClock) -> None:
        self._settings = settings
        self._clock = clock
        self._gate = asyncio.Lock()

    async def rejoin(self) -> None: ...
    async def need(self, actions: Iterable[str]) -> None: ...
    def hurry(self, busy: bool) -> None: ...
    async def close(self) -> None: ...
