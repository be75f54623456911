"""Every way QAI OS says no, as one tree.

    QaiError
    ├── Invalid                what was asked is wrong; nothing was done            exit 4
    │   ├── MissionInvalid     a mission document, with every fault and its place
    │   └── IllegalEvent       an event the state machine does not accept
    ├── NotFound               no such mission, task, device or artifact            exit 3
    ├── Conflict               the thing is not in a state that allows this         exit 5
    ├── Denied                 the principal may not do this                        exit 6
    ├── Unreachable            a node, hub or device cannot be reached              exit 7
    ├── DeadlineMissed         the time allowed is over                             exit 8
    ├── Refused                a device will not take this task; try another device
    ├── DeviceFault            a device failed while executing; `retryable` says whether again may help
    │   ├── DeviceLost         the device is gone; what it had done may be partial
    │   └── OutcomeUnknown     the effect may or may not have happened; never re-run by itself
    └── JournalBroken          the journal cannot be written or read; the process must stop

The name says whose fault it is and whether trying again can help. `exit_code` is what the command line
ends with; `hint` is what to do about it, in one sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class QaiError(Exception):
    """Root of everything this project raises on purpose."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Invalid(QaiError):
    exit_code = 4


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a document: where (1-based), what, and what to do about it."""

    file: str
    line: int
    column: int
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.what} — {self.remedy}"


class MissionInvalid(Invalid):
    """A mission document is wrong; `faults` holds every fault at once, in file order."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = faults


class IllegalEvent(Invalid):
    """The state machine refuses an event; it never reaches the journal."""


class NotFound(QaiError):
    exit_code = 3


class Conflict(QaiError):
    exit_code = 5


class Denied(QaiError):
    exit_code = 6


class Unreachable(QaiError):
    exit_code = 7


class DeadlineMissed(QaiError):
    exit_code = 8


class Refused(QaiError):
    """The device cannot or will not do this task; another device may."""


class DeviceFault(QaiError):
    """The device failed while executing."""

    def __init__(self, message: str, *, retryable: bool = True, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable


class DeviceLost(DeviceFault):
    """The device is gone (no heartbeat, process dead); a retry must go elsewhere."""


class OutcomeUnknown(DeviceFault):
    """Nobody can say whether the effect happened; waits for a planner or a person."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, retryable=False, hint=hint)


class JournalBroken(QaiError):
    """The journal cannot be trusted; going on would lose what was acknowledged."""
