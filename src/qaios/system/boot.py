"""The composition root: from settings to devices, and what stands around the node.

Drivers come from the entry points `qaios.drivers` and doors from `qaios.doors`, so nothing here names them; the
profile says which of them are used when the settings do not. A driver's module is light by rule, its SDK loads
when its device opens.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec

from qaios.contracts import Device, Driver, Site
from qaios.core.errors import Invalid
from qaios.system.config import PROFILES, Settings

DRIVERS = "qaios.drivers"
DOORS = "qaios.doors"


def found(group: str) -> dict[str, EntryPoint]:
    """Entry points by name; empty when the package is run without being installed."""
    return {point.name: point for point in entry_points(group=group)}


def drivers(settings: Settings) -> dict[str, Driver[Any]]:
    """The drivers this node uses. Raises `Invalid` for one that is asked for and not installed."""
    points = found(DRIVERS)
    wanted = dict.fromkeys([*PROFILES[settings.profile], *settings.drivers])
    missing = [name for name in wanted if name not in points]
    if missing:
        raise Invalid(
            f"no driver {', '.join(missing)} is installed",
            hint=f"installed are {', '.join(sorted(points)) or 'none: install the package, `pip install -e .`'}",
        )
    return {name: _loaded(points[name]) for name in wanted}


def _loaded(point: EntryPoint) -> Driver[Any]:
    try:
        driver: Driver[Any] = point.load()
    except Exception as error:  # importing other people's modules may raise anything
        raise Invalid(
            f"driver {point.name} ({point.value}) cannot be loaded: {type(error).__name__}: {error}",
            hint="install what it needs, or leave it out of the settings",
        ) from error
    return driver


def configured(name: str, driver: Driver[Any], settings: Settings) -> Any:
    """The driver's config with the settings' section applied. Raises `Invalid` naming the section."""
    told = {**_by_profile(name, settings), **settings.drivers.get(name, {})}
    fields = getattr(driver.config, "__dataclass_fields__", {})
    if unknown := [key for key in settings.drivers.get(name, {}) if key not in fields]:
        raise Invalid(f"[drivers.{name}]: unknown field {unknown[0]!r}", hint=f"its fields are {', '.join(fields)}")
    try:
        return msgspec.convert(told, driver.config)
    except msgspec.ValidationError as error:
        raise Invalid(f"[drivers.{name}]: {error}", hint=f"its fields are {', '.join(fields)}") from error


def _by_profile(name: str, settings: Settings) -> dict[str, Any]:
    """What the profile says of a driver, before the settings' own section."""
    return {"count": settings.vehicles} if (settings.profile, name) == ("sim", "mavlink") else {}


def devices(settings: Settings, site: Site) -> Sequence[Device]:
    """Every device of this node, unopened."""
    made: list[Device] = []
    for name, driver in drivers(settings).items():
        made.extend(driver.devices(configured(name, driver, settings), site))
    return made
