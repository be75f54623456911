"""All devices a kernel has: which are open, how they are, what each can still take.

Devices come as objects from the composition root; the fleet opens them when work asks for them (or at boot),
watches their status, keeps estimates per device version, and closes them. It tells every change to `on_change`,
which journals it. It knows no driver and no task; the kernel counts attempts in and out with `hold` and `free`.
A device that is lost is opened again now and then; a device that was halted stays so until it is released,
whatever it is underneath, also when it was closed or lost at that moment. What a driver raises where its contract
forbids it is turned into a state or a refusal here, so that one driver's mistake costs one device.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from qaios.contracts import Berth, Clock, Device, PreparedDevice
from qaios.core.errors import DeviceFault, NotFound, QaiError
from qaios.core.values import DeviceState, DeviceStatus, Estimate, Shape

OnChange = Callable[[str, DeviceState, str, int | None], Awaitable[None]]

_OPEN = (DeviceState.IDLE, DeviceState.BUSY)
_WATCH_S = 0.5
_REOPEN_S = 5.0
_HOPE_S = 12.0  # a device lost for longer is not waited for
_GRACE_S = 5.0  # a lost device's attempts are given this long to say so themselves


@dataclass(slots=True)
class Berthed:
    """One device and what the kernel knows of it."""

    device: Device
    state: DeviceState = DeviceState.CLOSED
    under: DeviceState = DeviceState.CLOSED  # while HALTED: what it would be if it were not
    reason: str = ""
    running: int = 0
    lost_since_s: float = 0.0
    tried_s: float = 0.0  # when opening it was last tried
    opening: asyncio.Task[None] | None = None
    estimates: dict[tuple[int, int], Estimate] = field(default_factory=dict)
    ends_s: list[float] = field(default_factory=list)  # when what it runs should end, by its own estimates
    version: int = -1  # of the estimates
    seen: int = -1  # the version the watch saw last
    prepared: set[tuple[int, int]] = field(default_factory=set)  # (shape, version)
    preparing: asyncio.Task[None] | None = None

    @property
    def usable(self) -> bool:
        return self.state in _OPEN

    @property
    def opened(self) -> bool:
        """Whether it can be asked things: a halted device can, though it takes no work."""
        return self.usable or (self.state is DeviceState.HALTED and self.under in _OPEN)

    @property
    def present(self) -> DeviceState:
        """Its state, seen through a halt."""
        return self.under if self.state is DeviceState.HALTED else self.state


class Fleet:
    """The devices of one kernel, by name."""

    def __init__(self, devices: Iterable[Device], clock: Clock, on_change: OnChange) -> None:
        self.berths: dict[str, Berthed] = {}
        for device in devices:
            if device.spec.name in self.berths:
                raise DeviceFault(f"two devices are called {device.spec.name}", retryable=False)
            self.berths[device.spec.name] = Berthed(device)
        self._clock = clock
        self._on_change = on_change
        self.changed = asyncio.Event()
        self.on_silent: Callable[[str], None] = lambda _name: None  # lost, and its attempts do not end by themselves

    def __getitem__(self, name: str) -> Berthed:
        try:
            return self.berths[name]
        except KeyError:
            raise NotFound(f"no device {name}", hint="`qai devices` lists them") from None

    # ── opening and closing ──────────────────────────────────────────────────

    def wanted(self, actions: Iterable[str]) -> list[str]:
        """Closed devices that offer one of these actions."""
        asked = set(actions)
        return [
            name
            for name, berth in self.berths.items()
            if berth.state is DeviceState.CLOSED and any(action.name in asked for action in berth.device.spec.actions)
        ]

    def open_soon(self, names: Iterable[str]) -> None:
        """Begin to open; the kernel's loop goes on meanwhile."""
        for name in names:
            berth = self[name]
            if berth.opening is None and not berth.opened:
                again = berth.present is DeviceState.LOST
                self._opening(berth, self._reopen(berth) if again else self._open(berth))

    def _opening(self, berth: Berthed, work: Coroutine[Any, Any, None]) -> None:
        berth.opening = asyncio.get_running_loop().create_task(work, name=f"open {berth.device.spec.name}")
        # Its only error is that the change could not be journaled, which stops the kernel by itself.
        berth.opening.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def open(self, names: Iterable[str]) -> None:
        listed = list(names)
        self.open_soon(listed)
        # Waited for and not gathered: who gives up waiting must not take the device from the others who wait.
        if opening := [task for name in listed if (task := self[name].opening) is not None]:
            await asyncio.wait(opening)

    async def _open(self, berth: Berthed) -> None:
        was = berth.present
        try:
            if was is not DeviceState.LOST:
                await self._change(berth, DeviceState.OPENING)
            berth.tried_s = self._clock.now_s()
            reason = ""
            try:
                await berth.device.__aenter__()
            except QaiError as error:
                reason = f"cannot be opened: {error}"
            except Exception as error:  # noqa: BLE001 - a driver is not ours; its mistake must not end the kernel
                reason = f"its driver failed: {_named(error)}"
            if not reason:
                await self._change(berth, DeviceState.IDLE)
            elif was is not DeviceState.LOST:
                await self._change(berth, DeviceState.LOST, reason)
            else:
                berth.reason = reason
        finally:
            berth.opening = None

    async def close(self) -> None:
        """Close all, each whatever the others do."""
        opening = [berth.opening for berth in self.berths.values() if berth.opening is not None]
        working = [berth.preparing for berth in self.berths.values() if berth.preparing is not None]
        for task in (*opening, *working):
            task.cancel()
        await asyncio.gather(*opening, *working, return_exceptions=True)
        opened = [berth for berth in self.berths.values() if berth.present is not DeviceState.CLOSED]
        ends = await asyncio.gather(*(self._close(berth) for berth in opened), return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end

    async def _close(self, berth: Berthed) -> None:
        reason = ""
        try:
            await berth.device.__aexit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - the others must still be closed
            reason = f"while closing: {_named(error)}"
        await self._change(berth, DeviceState.CLOSED, reason)

    # ── states ───────────────────────────────────────────────────────────────

    async def lost(self, name: str, reason: str) -> None:
        berth = self[name]
        if berth.present is not DeviceState.LOST:
            await self._change(berth, DeviceState.LOST, reason)

    def hopeless(self, name: str) -> bool:
        """Lost for so long that nothing should wait for it."""
        berth = self[name]
        return berth.state is DeviceState.LOST and self._clock.now_s() - berth.lost_since_s > _HOPE_S

    async def halt(self, names: Sequence[str]) -> None:
        """Every device at once, before anything is written down; closed and lost ones take no work either.

        Raises `NotFound` for a name that is none, after the others were halted.
        """
        known = [self.berths[name] for name in names if name in self.berths]
        before = [berth.state for berth in known]
        for berth in known:
            if berth.state is not DeviceState.HALTED:
                berth.under, berth.state, berth.reason = berth.state, DeviceState.HALTED, "halted"
        self.changed.set()
        ends = await asyncio.gather(*(berth.device.halt() for berth in known), return_exceptions=True)
        for berth, was, end in zip(known, before, ends, strict=True):
            if end is not None:
                berth.reason = f"halted, but its driver failed: {_named(end)}"
            if was is not DeviceState.HALTED or end is not None:
                await self._tell(berth)
        for name in names:
            self[name]

    def still_halted(self, names: Iterable[str]) -> None:
        """After a restart: what was halted before it still is."""
        for name in names:
            if name in self.berths:
                berth = self.berths[name]
                berth.under, berth.state, berth.reason = berth.present, DeviceState.HALTED, "halted"

    async def release(self, name: str) -> None:
        """The gated reset after a halt."""
        berth = self[name]
        if berth.state is DeviceState.HALTED:
            berth.state = berth.under
            if berth.state in _OPEN:
                berth.state = DeviceState.BUSY if berth.running else DeviceState.IDLE
            berth.reason = "released"
            self.changed.set()
            await self._tell(berth)

    async def watch(self) -> None:
        """Until cancelled: notice devices that fell silent, and try the lost ones again."""
        while True:
            await self._clock.sleep(_WATCH_S)
            for name, berth in tuple(self.berths.items()):
                await self._look_at(name, berth)

    async def _look_at(self, name: str, berth: Berthed) -> None:
        status, now_s = _status(berth), self._clock.now_s()
        if berth.opened and not status.alive:
            await self.lost(name, "no longer heard")
        elif berth.present is DeviceState.LOST and berth.opening is None:
            if berth.running and now_s - berth.lost_since_s >= _GRACE_S:
                self.on_silent(name)
            elif not berth.running and now_s - berth.tried_s >= _REOPEN_S:
                self._opening(berth, self._reopen(berth))
        elif status.version != berth.seen:
            berth.seen = status.version
            self.changed.set()

    async def _reopen(self, berth: Berthed) -> None:
        try:
            await berth.device.__aexit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - it was lost anyway; opening will tell
            berth.reason = f"{berth.reason}; closing it: {_named(error)}"
        await self._open(berth)

    async def _change(self, berth: Berthed, state: DeviceState, reason: str = "") -> None:
        if state is DeviceState.LOST and berth.present is not DeviceState.LOST:
            berth.lost_since_s = berth.tried_s = self._clock.now_s()
        if berth.state is DeviceState.HALTED:
            berth.under = state  # only `release` ends a halt
            return
        berth.state, berth.reason = state, reason
        self.changed.set()
        await self._tell(berth)

    async def _tell(self, berth: Berthed) -> None:
        await self._on_change(berth.device.spec.name, berth.state, berth.reason, _status(berth).pid)

    # ── capacity ─────────────────────────────────────────────────────────────

    def hold(self, name: str, duration_s: float = 0.0) -> None:
        """One attempt more, which should take so long."""
        berth = self[name]
        berth.running += 1
        berth.ends_s.append(self._clock.now_s() + duration_s)
        if berth.state is DeviceState.IDLE:
            berth.state = DeviceState.BUSY

    def free(self, name: str) -> None:
        berth = self[name]
        berth.running -= 1
        # Which of them ended does not matter to an estimate of when the next one will.
        berth.ends_s.remove(min(berth.ends_s))
        if berth.running == 0 and berth.state is DeviceState.BUSY:
            berth.state = DeviceState.IDLE
        self.changed.set()

    def view(self) -> list[Berth]:
        """What the policy sees. A device carved out of another shares its parent's capacity."""
        family = Counter[str]()
        for name, berth in self.berths.items():
            family[berth.device.spec.parent or name] += berth.running
        return [
            Berth(
                berth.device.spec,
                self._free(berth, family),
                _status(berth).version,
                self.unusable(berth),
                # What is overdue by so much is expected to take as much again.
                abs(min(berth.ends_s) - self._clock.now_s()) if berth.ends_s else 0.0,
                self.hopeless(name),
            )
            for name, berth in self.berths.items()
        ]

    def _free(self, berth: Berthed, family: Mapping[str, int]) -> int:
        if not berth.usable:
            return 0
        spec = berth.device.spec
        head = self.berths.get(spec.parent or spec.name)
        own = spec.capacity - berth.running
        return max(0, own if head is None else min(own, head.device.spec.capacity - family[head.device.spec.name]))

    @staticmethod
    def unusable(berth: Berthed) -> str:
        """Why it can take nothing at all now; empty when it can."""
        why = f": {berth.reason}" if berth.reason and berth.reason != berth.state else ""
        return "" if berth.usable else f"is {berth.state}{why}"

    # ── estimates ────────────────────────────────────────────────────────────

    def prepare(self, shapes: Sequence[tuple[int, Shape]]) -> dict[int, str]:
        """Let devices that need it work out their estimates off the loop, once per shape and version.

        Returns the shapes that must wait for it, each with the device that is at it; `changed` tells when it is done.
        """
        waiting: dict[int, str] = {}
        for name, berth in self.berths.items():
            if not berth.usable or not hasattr(berth.device, "prepare"):
                continue
            version = _status(berth).version
            new = [
                (index, shape)
                for index, shape in shapes
                if (index, version) not in berth.prepared and berth.device.spec.action(shape.action)
            ]
            waiting.update((index, name) for index, _ in new)
            if new and berth.preparing is None:
                berth.preparing = asyncio.get_running_loop().create_task(self._prepare(berth, new, version))
        return waiting

    async def _prepare(self, berth: Berthed, new: Sequence[tuple[int, Shape]], version: int) -> None:
        try:
            await cast(PreparedDevice, berth.device).prepare([shape for _, shape in new])
        except Exception as error:  # noqa: BLE001 - a driver is not ours; it refuses these until its next version
            refusal = Estimate(0.0, refusal=f"could not work out an estimate: {_named(error)}")
            berth.estimates.update({(index, version): refusal for index, _ in new})
        finally:
            berth.prepared.update((index, version) for index, _ in new)
            berth.preparing = None
            self.changed.set()

    def estimate(self, name: str, index: int, shape: Shape) -> Estimate:
        """Asked once per (device, shape, device version)."""
        berth = self[name]
        status = _status(berth)
        if status.version != berth.version:
            berth.version = status.version
            berth.estimates = {key: one for key, one in berth.estimates.items() if key[1] == status.version}
            berth.prepared = {key for key in berth.prepared if key[1] == status.version}
        key = (index, status.version)
        if key not in berth.estimates:
            berth.estimates[key] = estimated(berth.device, shape, status)
        return berth.estimates[key]


def estimated(device: Device, shape: Shape, status: DeviceStatus) -> Estimate:
    """What the device says a task of this shape would cost; a driver that fails to say refuses it."""
    try:
        return device.estimate([shape], status)[0]
    except Exception as error:  # noqa: BLE001 - a driver is not ours; its mistake must not end the kernel
        return Estimate(0.0, refusal=f"its driver failed to estimate: {_named(error)}")


def _status(berth: Berthed) -> DeviceStatus:
    """The device's word on itself; one that cannot even say is not alive."""
    try:
        return berth.device.status()
    except Exception:  # noqa: BLE001 - a driver is not ours; being silent is the worst it can mean
        return DeviceStatus(version=berth.version, alive=False)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
