"""A node in this process, for who has none running: `qai mission run`, scripts, notebooks.

This is the one place where doors meet the composition root; importing it is cheap, booting loads the system.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from qaios.core.values import Artifact, DeviceSpec
from qaios.schema.mission import MissionDocument

if TYPE_CHECKING:
    from qaios.system.system import System


def boot(
    *, home: Path | None = None, profile: str | None = None, seed: int | None = None, **more: Any
) -> AbstractAsyncContextManager[System]:
    """A node of these settings; what is None comes from the settings file and the environment."""
    from qaios.system.config import Settings
    from qaios.system.system import System

    return System.boot(Settings.load(home=home, profile=profile, seed=seed, **more))


def catalogue(*, home: Path | None = None, profile: str | None = None) -> Sequence[DeviceSpec]:
    """What the devices of a node of these settings are and can do, without booting it or opening any."""
    from qaios.contracts import Site
    from qaios.system import boot as composition
    from qaios.system.config import Settings

    settings = Settings.load(home=home, profile=profile)
    nothing = _Nothing()
    site = Site(
        clock=nothing,
        artifacts=nothing,
        home=str(settings.home),
        seed=settings.seed,
        profile=settings.profile,
        world=str(settings.home / "run" / "world.json") if settings.profile == "sim" else "",
    )
    return [device.spec for device in composition.devices(settings, site)]


def profile_for(document: MissionDocument, *, home: Path | None = None, profile: str | None = None) -> str:
    """The profile a mission runs in: the one asked for, else the document's, else the settings' when its devices
    offer every action the mission names, else the first profile whose devices do, else the settings'."""
    from qaios.system.config import PROFILES, Settings

    if profile or document.profile:
        return profile or document.profile
    own = Settings.load(home=home).profile
    wanted = {task.do for task in document.tasks.values()}
    for candidate in dict.fromkeys([own, *PROFILES]):
        specs = catalogue(home=home, profile=candidate)
        if wanted <= {action.name for spec in specs for action in spec.actions}:
            return candidate
    return own


class _Nothing:
    """Stands where a site's clock and artifacts would be: a device that is only asked what it is uses neither."""

    def _refuse(self) -> NoReturn:
        raise RuntimeError("a device used its site before it was opened")

    def now_s(self) -> float:
        self._refuse()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(0)
        self._refuse()

    def put(self, name: str, content: bytes, media_type: str) -> Artifact:
        self._refuse()

    def get(self, sha256: str) -> bytes:
        self._refuse()
