"""The planners this node asks when the ladder of failure is exhausted."""

from __future__ import annotations

from collections.abc import Sequence

from qaios.contracts import Planner
from qaios.system.config import Settings


def planners(settings: Settings) -> Sequence[Planner]:
    """Loaded only where there are robots whose unfinished work can be planned anew."""
    if settings.profile != "sim" and "mavlink" not in settings.drivers:
        return ()
    from qaios.robotics.repair import SurveyRepair

    return (SurveyRepair(),)
