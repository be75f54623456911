"""What stands around a node and is not part of it: the simulated world, the local hub.

Both are processes of their own that outlive a kernel killed in mid-air, because the air and the hub would. The node
starts them when a mission first needs them, finds them again after a crash, follows the world's clock, and stops on
a good shutdown what it, or its earlier life, had started. The world runs ahead of real time only while nothing but
the world is at work: computing then costs as many seconds of world time as it takes, and an idle node does not burn
a core to simulate an idle field.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import AsyncExitStack

from qaios.core.errors import Invalid, NotFound, Unreachable
from qaios.core.values import DeviceSpec
from qaios.hub import launch as hub_launch
from qaios.security.statements import HubAddress
from qaios.system.clock import NodeClock
from qaios.system.config import Settings
from qaios.worlds import launch as world_launch
from qaios.worlds.clock import WorldClock

_log = logging.getLogger("qaios.surroundings")

WORLD_ACTIONS = ("drone.", "air.", "world.")
HUB_ACTIONS = ("hub.",)


class Surroundings:
    """The world and the hub of one node."""

    def __init__(self, settings: Settings, clock: NodeClock) -> None:
        self._settings = settings
        self._clock = clock
        self._world: world_launch.WorldAddress | None = None
        self._world_clock: WorldClock | None = None
        self._hub: HubAddress | None = None
        self._stack = AsyncExitStack()
        self._gate = asyncio.Lock()
        self._flying = False

    async def rejoin(self) -> None:
        """Find what an earlier life of this node left running, and its clock before anything is replayed."""
        home = self._settings.home
        if self._settings.profile == "sim":
            try:
                self._world = await asyncio.to_thread(world_launch.attach, home)
            except (NotFound, Unreachable, Invalid) as error:
                _log.info("no world to rejoin: %s", error)
            else:
                await self._follow(self._world)
        self._hub = await asyncio.to_thread(hub_launch.attach, home)

    async def need(self, actions: Iterable[str]) -> None:
        """Return when what these actions need from outside is there."""
        listed = list(actions)
        async with self._gate:
            if self._settings.profile == "sim" and any(action.startswith(WORLD_ACTIONS) for action in listed):
                await self._need_world()
            if any(action.startswith(HUB_ACTIONS) for action in listed):
                # Finds the one that runs; starts one when there is none, or none any more.
                self._hub = await asyncio.to_thread(hub_launch.launch, self._settings.home)
                _log.info("hub at %s", self._hub.url)

    async def _need_world(self) -> None:
        if self._world_clock is not None and self._world_clock.alive:
            return
        self._world = await asyncio.to_thread(
            world_launch.launch,
            self._settings.home,
            seed=self._settings.seed,
            vehicles=self._settings.vehicles,
            loss=self._settings.loss,
            epoch_s=self._clock.now_s(),
        )
        _log.info("world %d started, seed %d", self._world.pid, self._world.seed)
        await self._follow(self._world)

    async def _follow(self, world: world_launch.WorldAddress) -> None:
        clock = await self._stack.enter_async_context(WorldClock.connect(world.host, world.port, world.token))
        self._world_clock = clock
        self._pace()
        self._clock.follow(clock)

    @staticmethod
    def is_of_world(spec: DeviceSpec) -> bool:
        """Whether a device exists only in the simulated world."""
        return spec.simulated and any(action.name.startswith(WORLD_ACTIONS) for action in spec.actions)

    def hurry(self, flying: bool) -> None:
        """While only the world is at work it goes as fast as it is allowed to; otherwise at real time."""
        if flying != self._flying:
            self._flying = flying
            self._pace()

    def _pace(self) -> None:
        if self._world_clock is not None:
            self._world_clock.speed_max = self._settings.speed_max if self._flying else 1.0

    async def close(self, *, leave: bool) -> None:
        """On a good shutdown both end with the node; the hub keeps on disk what it stored.

        `leave` is for a node that goes down with a mission unfinished: vehicles may be in the air, and the next boot
        takes up where this one left. Both end by themselves when nobody comes back.
        """
        self._clock.unfollow()
        await self._stack.aclose()
        if leave:
            return
        if self._world is not None:
            await asyncio.to_thread(world_launch.stop, self._settings.home)
        if self._hub is not None:
            await asyncio.to_thread(hub_launch.stop, self._settings.home)
