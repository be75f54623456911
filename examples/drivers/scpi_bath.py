"""A thermal bath in software that answers SCPI lines over TCP, so that its driver can be tested without one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

TOO_HOT_K = 380.0  # its heater never gets beyond this
BROKEN_K = 333.0  # asked for exactly this it reports a fault


class ScpiBath:
    """Heats and cools by 5 K each time it is asked for its temperature; keeps its state over all connections."""

    def __init__(self) -> None:
        self.kelvin, self.goal, self.text = 295.0, 295.0, ""
        self.heating = False
        self.heatings = 0  # how often somebody switched it on

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Yields the port on loopback."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := (await reader.readline()).decode().strip():
            answers = [answer for part in line.split(";") if (answer := self._obey(part.lstrip(":")))]
            if answers:
                writer.write((answers[0] if answers[0].startswith("ERR") else answers[-1]).encode() + b"\n")
        writer.close()

    def _obey(self, command: str) -> str:
        verb, _, value = command.partition(" ")
        match verb:
            case "*IDN?":
                return "ACME,BATH 400,1234,1.0"
            case "*OPC?":
                return "1"
            case "SOUR:TEMP":
                self.goal = float(value)
                return "ERR -240 heater" if self.goal == BROKEN_K else ""
            case "OUTP":
                self.heating = value == "ON"
                self.heatings += self.heating
            case "OUTP?":
                return str(int(self.heating))
            case "DISP:TEXT":
                self.text = value
            case "DISP:TEXT?":
                return self.text or '""'
            case "MEAS:TEMP?":
                return self._measure()
            case _:
                return f"ERR -113 undefined header {verb}"
        return ""

    def _measure(self) -> str:
        if self.heating:
            step = max(-5.0, min(5.0, self.goal - self.kelvin))
            self.kelvin = min(TOO_HOT_K, self.kelvin + step)
        return f"{self.kelvin:.2f}"
