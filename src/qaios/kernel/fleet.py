"""All devices a kernel has: which are open, how they are, what each can still take.

Devices come as objects from the composition root; the fleet opens them when work asks for them (or at boot),
watches their status, keeps estimates per device version, and closes them. It tells every change to `on_change`,
which journals it. It knows no driver and no task; the kernel counts attempts in and out with `hold` and `free`.
A device that is lost is opened again now and then; a device that was halted stays so until it is released.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

from qaios.contracts import Berth, Clock, Device, PreparedDevice
from qaios.core.errors import DeviceFault, NotFound, QaiError
from qaios.core.values import DeviceState, DeviceStatus, Estimate, Shape

OnChange = Callable[[str, DeviceState, str, int | None], Awaitable[None]]

_WATCH_S = 0.5
_REOPEN_S = 5.0
_HOPE_S = 12.0  # a device lost for longer is not waited for


@dataclass(slots=True)
class Berthed:
    """One device and what the kernel knows of it."""

    device: Device
    state: DeviceState = DeviceState.CLOSED
    reason: str = ""
    running: int = 0
    lost_since_s: float = 0.0
    tried_s: float = 0.0  # when opening it was last tried
    opening: asyncio.Task[None] | None = None
    estimates: dict[tuple[int, int], Estimate] = field(default_factory=dict)
    ends_s: list[float] = field(default_factory=list)  # when what it runs should end, by its own estimates
    version: int = -1

    @property
    def usable(self) -> bool:
        return self.state in (DeviceState.IDLE, DeviceState.BUSY)


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
            if berth.opening is None and not berth.usable:
                berth.opening = asyncio.get_running_loop().create_task(self._open(berth), name=f"open {name}")

    async def open(self, names: Iterable[str]) -> None:
        listed = list(names)
        self.open_soon(listed)
        await asyncio.gather(*(task for name in listed if (task := self[name].opening) is not None))

    async def _open(self, berth: Berthed) -> None:
        name, was = berth.device.spec.name, berth.state
        try:
            if was is not DeviceState.LOST:
                await self._change(berth, DeviceState.OPENING)
            await berth.device.__aenter__()
            await self._change(berth, DeviceState.IDLE)
        except QaiError as error:
            if was is not DeviceState.LOST:
                await self._change(berth, DeviceState.LOST, f"cannot be opened: {error}")
        except Exception as error:  # noqa: BLE001 - a driver is not ours; its mistake must not end the kernel
            await self._change(berth, DeviceState.LOST, f"driver of {name} failed: {type(error).__name__}: {error}")
        finally:
            berth.opening = None

    async def close(self) -> None:
        """Close all, each whatever the others do."""
        for berth in self.berths.values():
            if berth.opening is not None:
                berth.opening.cancel()
        opened = [berth for berth in self.berths.values() if berth.state is not DeviceState.CLOSED]
        await asyncio.gather(*(self._close(berth) for berth in opened))

    async def _close(self, berth: Berthed) -> None:
        reason = ""
        try:
            await berth.device.__aexit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - the others must still be closed
            reason = f"while closing: {type(error).__name__}: {error}"
        await self._change(berth, DeviceState.CLOSED, reason)

    # ── states ───────────────────────────────────────────────────────────────

    async def lost(self, name: str, reason: str) -> None:
        berth = self[name]
        if berth.state is not DeviceState.LOST:
            await self._change(berth, DeviceState.LOST, reason)

    async def halt(self, names: Sequence[str]) -> None:
        """Every device at once; `Device.halt` never raises and never waits for the others."""
        await asyncio.gather(*(self[name].device.halt() for name in names))
        for name in names:
            if self[name].state in (DeviceState.IDLE, DeviceState.BUSY, DeviceState.OPENING):
                await self._change(self[name], DeviceState.HALTED, "halted")

    async def release(self, name: str) -> None:
        """The gated reset after a halt."""
        berth = self[name]
        if berth.state is DeviceState.HALTED:
            await self._change(berth, DeviceState.BUSY if berth.running else DeviceState.IDLE, "released")

    async def watch(self) -> None:
        """Until cancelled: notice devices that fell silent, and try the lost ones again."""
        while True:
            await self._clock.sleep(_WATCH_S)
            for name, berth in self.berths.items():
                if berth.usable and not berth.device.status().alive:
                    await self.lost(name, "no longer heard")
                elif berth.state is DeviceState.LOST and berth.running == 0 and berth.opening is None:
                    if self._clock.now_s() - berth.tried_s >= _REOPEN_S:
                        berth.opening = asyncio.get_running_loop().create_task(self._reopen(berth))
                elif berth.usable and berth.device.status().version != berth.version:
                    self.changed.set()

    async def _reopen(self, berth: Berthed) -> None:
        berth.tried_s = self._clock.now_s()
        try:
            await berth.device.__aexit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - it was lost anyway; opening will tell
            berth.reason = f"{berth.reason}; closing it: {error}"
        await self._open(berth)

    async def _change(self, berth: Berthed, state: DeviceState, reason: str = "") -> None:
        if state is DeviceState.LOST and berth.state is not DeviceState.LOST:
            berth.lost_since_s = berth.tried_s = self._clock.now_s()
        berth.state, berth.reason = state, reason
        self.changed.set()
        await self._on_change(berth.device.spec.name, state, reason, berth.device.status().pid)

    # ── capacity ─────────────────────────────────────────────────────────────

    def hold(self, name: str, duration_s: float = 0.0) -> None:
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
        return [
            Berth(
                berth.device.spec,
                self._free(berth),
                berth.device.status().version,
                self._unusable(berth),
                # What is overdue by so much is expected to take as much again.
                abs(min(berth.ends_s) - self._clock.now_s()) if berth.ends_s else 0.0,
                berth.state is DeviceState.LOST and self._clock.now_s() - berth.lost_since_s > _HOPE_S,
            )
            for berth in self.berths.values()
        ]

    def _free(self, berth: Berthed) -> int:
        if not berth.usable:
            return 0
        parent = self.berths.get(berth.device.spec.parent)
        own = berth.device.spec.capacity - berth.running
        return own if parent is None else min(own, parent.device.spec.capacity - parent.running)

    @staticmethod
    def _unusable(berth: Berthed) -> str:
        return "" if berth.usable else f"is {berth.state}" + (f": {berth.reason}" if berth.reason else "")

    # ── estimates ────────────────────────────────────────────────────────────

    async def prepare(self, shapes: Sequence[tuple[int, Shape]]) -> None:
        """Let devices that need it work out their estimates off the loop, once per shape and version."""
        for berth in self.berths.values():
            if not berth.usable or not hasattr(berth.device, "prepare"):
                continue
            version = berth.device.status().version
            new = [
                shape
                for index, shape in shapes
                if (index, version) not in berth.estimates and berth.device.spec.action(shape.action)
            ]
            if new:
                await cast(PreparedDevice, berth.device).prepare(new)

    def estimate(self, name: str, index: int, shape: Shape) -> Estimate:
        """Asked once per (device, shape, device version)."""
        berth = self[name]
        status: DeviceStatus = berth.device.status()
        if status.version != berth.version:
            berth.version = status.version
            berth.estimates.clear()
        key = (index, status.version)
        if key not in berth.estimates:
            berth.estimates[key] = berth.device.estimate([shape], status)[0]
        return berth.estimates[key]
