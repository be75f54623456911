"""The local frame: metres east and north of an origin, against latitude and longitude.

Equirectangular around the origin on a sphere of 6 371 000 m (the radius PX4 uses); over a scene of a few
hundred metres the difference from the ellipsoid is a scale of about 0.1 %, the same for every user of it.
"""

from __future__ import annotations

import math

EARTH_RADIUS_M = 6_371_000.0


class LocalFrame:
    """East-north metres around (`lat_deg`, `lon_deg`)."""

    def __init__(self, lat_deg: float, lon_deg: float) -> None:
        self.lat_deg = lat_deg
        self.lon_deg = lon_deg
        self._north_m_per_deg = EARTH_RADIUS_M * math.pi / 180.0
        self._east_m_per_deg = self._north_m_per_deg * math.cos(math.radians(lat_deg))

    def to_local(self, lat_deg: float, lon_deg: float) -> tuple[float, float]:
        """(east, north) in metres."""
        return (
            (lon_deg - self.lon_deg) * self._east_m_per_deg,
            (lat_deg - self.lat_deg) * self._north_m_per_deg,
        )

    def to_globe(self, east_m: float, north_m: float) -> tuple[float, float]:
        """(latitude, longitude) in degrees."""
        return self.lat_deg + north_m / self._north_m_per_deg, self.lon_deg + east_m / self._east_m_per_deg
