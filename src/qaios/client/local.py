"""A node in this process, for who has none running: `qai mission run`, scripts, notebooks.

This is the one place where doors meet the composition root; importing it is cheap, booting loads the system.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from qaios.core.errors import Invalid
from qaios.core.values import Artifact, DeviceSpec

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


def fleet_for(
    actions: Collection[str], *, profile: str | None = None, home: Path | None = None
) -> tuple[str, Sequence[DeviceSpec]]:
    """The profile in which these actions are done, and the devices of that profile.

    It is the one asked for; else the one whose devices offer most of the actions, the settings' own before others.
    Raises `Invalid` when a profile cannot be composed and no other offers everything.
    """
    from qaios.system.config import PROFILES, Settings

    if profile:
        return profile, catalogue(home=home, profile=profile)
    own = Settings.load(home=home).profile
    best: tuple[int, str, Sequence[DeviceSpec]] | None = None
    broken: Invalid | None = None
    for name in dict.fromkeys([own, *PROFILES]):
        try:
            fleet = catalogue(home=home, profile=name)
        except Invalid as error:
            broken = broken or error
            continue
        offered = len({action.name for spec in fleet for action in spec.actions}.intersection(actions))
        if best is None or offered > best[0]:
            best = (offered, name, fleet)
        if offered == len(actions):
            break
    if best is None or (broken is not None and best[0] < len(actions)):
        assert broken is not None
        raise broken
    return best[1], best[2]


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
