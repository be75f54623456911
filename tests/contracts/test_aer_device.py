"""A simulated quantum machine keeps every promise of the kit."""

from __future__ import annotations

from qaios.contracts import Device, Site
from qaios.core.values import Task
from qaios.drivers.aer import DRIVER, AerConfig
from qaios.testing.device_kit import DeviceKit


def ghz(qubits: int) -> str:
    chain = "".join(f"cx q[{number}], q[{number + 1}];\n" for number in range(qubits - 1))
    head = f'OPENQASM 3.0;\ninclude "stdgates.inc";\nqubit[{qubits}] q;\nbit[{qubits}] c;\n'
    return f"{head}h q[0];\n{chain}c = measure q;\n"


def sample(qubits: int, shots: int) -> Task:
    return Task(1, "mission", "sample", "quantum.sample", {"circuit": ghz(qubits), "shots": shots})


class TestAer(DeviceKit):
    lacks = {
        "slow_observe": "its readings are those of the calibration",
        "batch": "circuits are run one by one",
        "faulty_task": "what can fail is refused before the run; a killed worker is tried by the halt recipes",
        "effects": "a simulation has no effect but its result",
        "unknown_key": "tests/quantum/test_ledger.py",
    }

    def make(self, site: Site) -> Device:
        return DRIVER.devices(AerConfig(snapshots=("boston",), warm=False), site)[0]

    def unopenable(self, site: Site) -> Device:
        return DRIVER.devices(AerConfig(snapshots=("nowhere",)), site)[0]

    def task(self) -> Task:
        return sample(2, 100)

    def slow_task(self) -> Task:
        return sample(20, 100_000)
