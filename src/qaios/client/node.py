"""What every door asks of a node: the facade, as one Protocol.

Two things have this shape: `qaios.system.System`, a node in this process, and `qaios.client.Client`, a node
reached over HTTP. The command line, the HTTP door and the notebook are written against it and cannot tell which
they hold; what one can do, the other can.

Everything is said in the models of `qaios.schema` and in `core` values, never in kernel terms. Every method may
raise a `QaiError`: `NotFound` for a name that is not there, `Conflict` for a state that does not allow it,
`Invalid` for a wrong document, `Unreachable` when the node does not answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from qaios.contracts import Engine
from qaios.core.values import DeviceSpec
from qaios.schema.mission import MissionDocument
from qaios.schema.views import DeviceView, EventView, MissionReport, MissionView, NodeStatus, TaskView


class Node(Protocol):
    """A node, here or elsewhere."""

    async def status(self) -> NodeStatus:
        """The node at a glance."""

    async def catalogue(self) -> Sequence[DeviceSpec]:
        """What every device of the fleet is and can do; missions are checked against it."""

    async def devices(self) -> Sequence[DeviceView]:
        """The fleet as it is now, by name."""

    async def missions(self) -> Sequence[MissionView]:
        """Every mission the journal knows, oldest first, without their tasks."""

    async def mission(self, mission: str) -> MissionView:
        """One mission with its tasks, by id, or by name (the newest of that name)."""

    async def report(self, mission: str) -> MissionReport:
        """The mission with artifacts and metrics, as far as it is."""

    async def plan(self, document: MissionDocument) -> Sequence[TaskView]:
        """Where each task would go if it were submitted now, with scores; nothing is submitted.

        Raises `MissionInvalid` with everything that is wrong with it on this fleet.
        """

    async def submit(self, document: MissionDocument, *, seed: int | None = None, key: str | None = None) -> str:
        """Return the mission's id once it is durable.

        `seed` overrides the document's. The same `key` again returns the same id and submits nothing; the same
        key with another document raises `Conflict`. Raises `MissionInvalid` with everything that is wrong with it
        on this fleet.
        """

    async def cancel(self, mission: str, task: str | None = None) -> None:
        """Ask for it to stop; returns when the request is durable, not when the devices have confirmed."""

    async def resolve(self, mission: str, task: str, *, happened: bool) -> None:
        """Say what became of a task whose outcome is unknown: it happened (done), or never did (tried again).

        Raises `Conflict` for a task whose outcome is known.
        """

    def watch(self, mission: str | None = None, after: int = 0) -> AsyncIterator[EventView]:
        """Events with a sequence greater than `after`, past ones first, then as they happen.

        With a mission it ends after the event that ends the mission; without, it goes on until closed.
        """

    async def events(self, after: int = 0, limit: int = 1000) -> Sequence[EventView]:
        """Up to `limit` events with a sequence greater than `after`, oldest first."""

    async def artifact(self, sha256: str) -> bytes:
        """The content at this address."""

    async def halt(self, device: str | None = None) -> Sequence[str]:
        """Bring one device, or every device, to its safe state now; the names of those that were halted."""

    async def release(self, device: str) -> None:
        """Let a halted device work again."""

    async def shutdown(self) -> None:
        """End the node in good order; returns when that has begun."""


@dataclass(frozen=True, slots=True)
class Door:
    """What an entry point in the group `qaios.doors` names: an engine that shows a node to the outside.

    The system makes and supervises it without importing it; `home` is `QAIOS_HOME`.
    """

    name: str
    make: Callable[[Node, str], Engine]
