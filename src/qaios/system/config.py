"""Settings of one node, and where they come from.

Defaults < `QAIOS_HOME/config.toml` < environment (`QAIOS_HOME`, `QAIOS_PROFILE`) < command line. A section
`[drivers.NAME]` configures a driver (the fields of its config dataclass); a driver named there is used whatever
the profile says, so a third party's driver needs its entry point and one section, and no code here.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from qaios.core.errors import Invalid

# Which drivers each profile opens when nothing else is configured.
PROFILES: Mapping[str, tuple[str, ...]] = {
    "local": ("compute", "hub", "liquid"),
    "sim": ("compute", "hub", "liquid", "aer", "world", "mavlink", "air"),
}


def default_home() -> Path:
    """`QAIOS_HOME`, or the platform's folder for state."""
    given = os.environ.get("QAIOS_HOME")
    if given:
        return Path(given).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_state_dir("qaios", appauthor=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One node's settings. `seed` is the world's in the simulation profile."""

    home: Path = field(default_factory=default_home)
    profile: str = "local"
    seed: int = 0
    vehicles: int = 4
    open_all: bool = False  # open every device at boot instead of when work asks for it
    doors: bool = True
    loss: float = 0.01  # share of datagrams the simulated radio loses, 0..1
    speed_max: float = 0.0  # world seconds per second while only the world is at work; 0: as fast as it can
    drivers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @staticmethod
    def load(**given: Any) -> Settings:
        """Raises `Invalid` naming the file and the key that is wrong."""
        home = Path(given.pop("home", None) or default_home())
        path = home / "config.toml"
        told: dict[str, Any] = {}
        if path.exists():
            try:
                told = tomllib.loads(path.read_text(encoding="utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise Invalid(f"{path}: {error}", hint="it is TOML, see docs/reference/settings.md") from error
        known = set(Settings.__dataclass_fields__) - {"home"}
        for key in told:
            if key not in known:
                raise Invalid(f"{path}: unknown setting {key!r}", hint=f"settings are {', '.join(sorted(known))}")
        if "QAIOS_PROFILE" in os.environ:
            told["profile"] = os.environ["QAIOS_PROFILE"]
        told.update({key: value for key, value in given.items() if value is not None})
        try:
            settings = msgspec.convert({"home": str(home), **told}, Settings, dec_hook=_path)
        except msgspec.ValidationError as error:
            raise Invalid(f"settings: {error}", hint=f"look into {path} and at the options given") from error
        if settings.profile not in PROFILES:
            raise Invalid(f"there is no profile {settings.profile!r}", hint=f"profiles are {', '.join(PROFILES)}")
        return settings


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise TypeError(f"{kind} is not a setting")
