"""What is the same in most devices, written once: a driver's author inherits it and writes what is different.

    class Oven(Plain):                                   the author writes
        def judge(self, action, arguments): ...          what it will not take, beyond wrong names (optional)
        def price(self, shape, status): ...              what a task would cost
        async def act(self, task, attempt): ...          the work itself; stop the thing when cancelled
        async def halt(self): ...                        the safe state, whatever else is going on

Given: a task is refused when its action is not offered, an argument is missing or unknown, or `judge` says so, and
the same words are the refusal in the estimate; a closed device and an older kernel are turned away; one key is one
effect (`drivers.once`); the status is what `see` last published. All of it can be overridden; nothing of it is
needed: the contract is `contracts.Device`, and the conformance kit asks for no base class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from qaios.contracts import Attempt, Site
from qaios.core.errors import DeviceFault, Refused
from qaios.core.values import (
    DeviceSpec,
    DeviceStatus,
    Estimate,
    HaltRecipe,
    Reading,
    Recall,
    Result,
    Shape,
    Task,
)
from qaios.drivers.once import Once


class Plain:
    """Everything of `contracts.Device` but what it does."""

    def __init__(self, spec: DeviceSpec, site: Site) -> None:
        self._spec = spec
        self.site = site
        self.once = Once()
        self._open = False
        self._status = DeviceStatus()

    # ── what the author writes ──

    def judge(self, action: str, arguments: Mapping[str, Any]) -> str:
        """Why it will not take this, or "". Names are checked already; a string "${…}" stands for what comes later."""
        return ""

    def price(self, shape: Shape, status: DeviceStatus) -> Estimate:
        """Pure: what one task of this shape would cost in this state. Called only for what is not refused."""
        raise NotImplementedError

    async def act(self, task: Task, attempt: Attempt) -> Result:
        """Do it. When cancelled, stop the thing and let `CancelledError` go on once it has confirmed."""
        raise NotImplementedError

    async def halt(self) -> None:
        """Bring it to its safe state now, never raise. As it stands: nothing here can move or burn."""

    async def observe(self) -> Sequence[Reading]:
        """Read it now. As it stands there is nothing to read."""
        return ()

    # ── what is given ──

    @property
    def spec(self) -> DeviceSpec:
        return self._spec

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._open = False
        await self.once.close()

    def status(self) -> DeviceStatus:
        return self._status

    def see(self, *readings: Reading) -> Sequence[Reading]:
        """Publish what estimates may depend on: the next version of the status."""
        self._status = DeviceStatus(self._status.version + 1, readings=readings)
        return readings

    def refusal(self, action: str, arguments: Mapping[str, Any]) -> str:
        """Why it will not take this, or ""."""
        offered = self._spec.action(action)
        if offered is None:
            return f"{self._spec.name} does not offer {action}"
        for name in offered.required:
            if name not in arguments:
                return f"{action} needs '{name}': {offered.parameters.get(name, '')}"
        for name in arguments:
            if name not in offered.parameters:
                return f"{action} takes no '{name}'; it takes {', '.join(offered.parameters) or 'nothing'}"
        return self.judge(action, arguments)

    def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
        return [
            Estimate(0.0, refusal=why) if (why := self.refusal(shape.action, shape.form)) else self.price(shape, status)
            for shape in shapes
        ]

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        if why := self.refusal(task.action, task.arguments):
            raise Refused(why, hint="`qai devices -o json` lists what each device takes.")
        if not self._open:
            raise DeviceFault(f"{self._spec.name} is not open")
        self.once.admit(attempt.epoch)
        return await self.once.run(attempt.key, lambda: self.act(task, attempt))

    def halt_recipes(self) -> Sequence[HaltRecipe]:
        return ()

    async def recall(self, key: str) -> Recall:
        """What this process knows. A device with effects that outlive it must ask the device instead."""
        return self.once.recall(key)
