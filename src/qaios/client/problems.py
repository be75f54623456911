"""Errors on their way through the HTTP door: problem details (RFC 9457) and back into the same exceptions.

The door says what went wrong with `problem`, the client raises it again with `raised`, so that a program cannot
tell from an error whether its node is here or elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from qaios.core import errors
from qaios.core.errors import Fault, MissionInvalid, QaiError

STATUS = {
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Denied: 403,
    errors.Invalid: 422,
    errors.Unreachable: 503,
    errors.DeadlineMissed: 504,
    errors.Refused: 409,
}
_KINDS: dict[str, type[QaiError]] = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, QaiError) and kind is not MissionInvalid
}


def status_of(error: QaiError) -> int:
    """The HTTP status of an error: that of the nearest kind that has one."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def problem(error: QaiError, status: int | None = None) -> dict[str, Any]:
    """An error as the JSON of `application/problem+json`."""
    kind = type(error).__name__
    body: dict[str, Any] = {
        "type": f"urn:qaios:error:{kind}",
        "title": kind,
        "status": status if status is not None else status_of(error),
        "detail": str(error),
        "hint": error.hint,
    }
    if isinstance(error, MissionInvalid):
        body["faults"] = [dataclasses.asdict(fault) for fault in error.faults]
    return body


def raised(body: Mapping[str, Any], status: int) -> QaiError:
    """The error that a problem stands for; an unknown kind becomes the root of the tree."""
    faults = body.get("faults")
    if isinstance(faults, list) and faults:
        return MissionInvalid(tuple(Fault(**{key: fault[key] for key in Fault.__slots__}) for fault in faults))
    detail = str(body.get("detail") or f"the node answered with status {status}")
    kind = _KINDS.get(str(body.get("title")), QaiError)
    return kind(detail, hint=str(body.get("hint") or ""))
