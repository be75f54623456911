"""The simulated machines keep every promise of the conformance kit."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from qaios.contracts import Device, Site
from qaios.core.values import Task
from qaios.drivers.aer import DRIVER, SAMPLE, AerConfig, devices
from qaios.drivers.ledger import Entry, Ledger
from qaios.testing.device_kit import DeviceKit
from qaios.testing.driver_kit import DriverKit
from tests.quantum.circuits_for_tests import BELL, ghz


class TestSimulatedMachine(DeviceKit):
    lacks = {
        "batch": "a machine runs one circuit at a time; bundles of circuits belong to machines that host several",
        "slow_observe": "its readings are the calibration, which is in memory",
        "faulty_task": "a circuit that was taken runs, unless its process dies, which the halt recipes show",
    }

    def make(self, site: Site) -> Device:
        return devices(AerConfig(snapshots=("boston",), warm=False), site)[0]

    def unopenable(self, site: Site) -> Device:
        return devices(AerConfig(snapshots=("atlantis",)), site)[0]

    def task(self) -> Task:
        return Task(1, "mission", "bell", SAMPLE, {"circuit": BELL, "shots": 100})

    def slow_task(self) -> Task:
        return Task(2, "mission", "slow", SAMPLE, {"circuit": ghz(13), "shots": 20_000})

    def effects(self, device: Device) -> int:
        entries = (self.home / "devices" / "ibm-boston" / "ledger").glob("*.entry")
        return sum(msgspec.msgpack.decode(path.read_bytes(), type=Entry).state == "done" for path in entries)

    async def unknown_key(self, site: Site) -> str:
        entry = Ledger(self.home / "devices" / "ibm-boston" / "ledger").path("kit/mission/lost")
        entry.parent.mkdir(parents=True)
        entry.write_bytes(b"this was an entry once")
        return "kit/mission/lost"


class TestDriver(DriverKit):
    lacks = {"twin_case": "there is no twin: the twin behaves as the estimate says"}
    driver, module = DRIVER, "qaios.drivers.aer"

    def entry_points(self) -> Mapping[str, str]:
        text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
        named: Mapping[str, str] = tomllib.loads(text)["project"]["entry-points"]["qaios.drivers"]
        return named
