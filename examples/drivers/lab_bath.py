"""A thermal bath of a laboratory, driven by SCPI lines over TCP: a whole driver in one file."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from qaios.contracts import Attempt, Driver, Site
from qaios.core import values as v
from qaios.core.errors import DeviceFault
from qaios.drivers.plain import Plain

KELVIN = {"kelvin": "the temperature to bring it to, 250 to 400"}
HOLD = v.ActionSpec("bath.hold", "Heat or cool.", effect=v.Effect.EFFECTFUL, parameters=KELVIN, required=("kelvin",))


@dataclass(frozen=True)
class BathConfig:
    host: str = "127.0.0.1"
    port: int = 5025  # the usual port of SCPI instruments
    kelvin_per_s: float = 0.5  # how fast it heats and cools, from its data sheet


class Bath(Plain):
    def __init__(self, config: BathConfig, site: Site) -> None:
        super().__init__(v.DeviceSpec("bath", "lab_bath", "oven", (HOLD,), summary="Thermal bath"), site)
        self.config, self.line = config, asyncio.Lock()
        self.stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        try:
            self.stream = await asyncio.open_connection(self.config.host, self.config.port)
        except OSError as error:
            raise DeviceFault(f"no bath at {self.config.host}:{self.config.port}: {error}") from error
        return await super().__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        await super().__aexit__(*error)  # cancels what runs, and that switches the heater off
        if self.stream is not None:
            self.stream[1].close()
            self.stream = None

    def judge(self, action: str, arguments: Mapping[str, Any]) -> str:
        kelvin = arguments["kelvin"]
        if str(kelvin).startswith("${"):
            return ""  # the result of another task, not known yet
        good = isinstance(kelvin, int | float) and 250 <= kelvin <= 400
        return "" if good else f"'kelvin' is {kelvin!r}; give a number from 250 to 400"

    def price(self, shape: v.Shape, status: v.DeviceStatus) -> v.Estimate:  # pure: see `status`
        goal, now = shape.form["kelvin"], status.value("bath.temperature") or 295.0
        return v.Estimate((abs(goal - now) if isinstance(goal, int | float) else 100.0) / self.config.kelvin_per_s)

    async def act(self, task: v.Task, attempt: Attempt) -> v.Result:
        goal = task.arguments["kelvin"]
        try:
            await self.ask(f'DISP:TEXT "{attempt.key}";:SOUR:TEMP {goal};:OUTP ON;*OPC?')
            while abs((now := float(await self.ask("MEAS:TEMP?"))) - goal) > 0.5:
                attempt.emit({"kelvin": now})
                if await self.ask("OUTP?") != "1":
                    raise DeviceFault("somebody switched the heater off")
                await attempt.clock.sleep(0.05)
        except asyncio.CancelledError:
            await self.ask("OUTP OFF;*OPC?")  # confirmed before the cancellation goes on
            raise
        return v.Result({"kelvin": now}, provenance={"instrument": await self.ask("*IDN?")})

    async def halt(self) -> None:  # over a line of its own: it works while the other is busy, and when closed
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(self.config.host, self.config.port)
            writer.write(b"OUTP OFF\n")
            writer.close()

    async def observe(self) -> Sequence[v.Reading]:
        kelvin = float(await self.ask("MEAS:TEMP?"))
        return self.see(v.Reading("bath.temperature", kelvin, v.Unit.KELVIN, self.site.clock.now_s()))

    async def recall(self, key: str) -> v.Recall:  # the bath shows the last key, also to a kernel that is started anew
        known = self.once.recall(key)
        shown = await self.ask("DISP:TEXT?") if isinstance(known, v.Never) else ""
        return v.Unknown("the kernel ended while the bath was at it") if shown == f'"{key}"' else known

    async def ask(self, line: str) -> str:  # shielded: half a question would leave its answer to the next one
        return await asyncio.shield(asyncio.ensure_future(self.exchange(line)))

    async def exchange(self, line: str) -> str:
        async with self.line:
            assert self.stream is not None
            self.stream[1].write(line.encode() + b"\n")
            answer = (await self.stream[0].readline()).decode().strip()
        if not answer or answer.startswith("ERR"):
            raise DeviceFault(f"the bath answered {answer or 'nothing'!r} to {line}")
        return answer


DRIVER = Driver(name="lab_bath", summary="A thermal bath", config=BathConfig, devices=lambda c, site: [Bath(c, site)])
