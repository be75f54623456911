"""The conformance kit for a driver's record: what the system relies on before any device is opened.

class TestMyDriver(DriverKit):
    lacks = {"twin_case": "the twin behaves as the estimate says"}
    driver, module = DRIVER, "my_package.my_driver"
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, ClassVar

from qaios.contracts import Driver, Isolation, Site
from qaios.core.values import Task
from qaios.testing.clock import FakeClock
from qaios.testing.memory import FakeAttempt, MemoryArtifacts
from qaios.testing.promise import Kit, probe, promise

# What no driver may import at its own import: each costs every boot a good part of a second, or clashes with another.
HEAVY_MODULES = """
    braket cirq dimod dwave jax matplotlib mavsdk mujoco onnxruntime ortools pandas pennylane perceval pulser
    pymavlink pyquil qiskit qiskit_aer qiskit_ibm_runtime rclpy scipy serial shapely sklearn torch
"""


class DriverKit(Kit):
    """The promises of `contracts.Driver`."""

    driver: ClassVar[Driver[Any]]
    module: ClassVar[str]  # where the entry point finds it; the record is called DRIVER there
    twin_error: ClassVar[float] = 0.2  # by what part of the real duration the twin may be off

    def entry_points(self) -> Mapping[str, str]:
        """The entry points of the group `qaios.drivers`, name to "module:attribute"."""
        return {point.name: point.value for point in entry_points(group="qaios.drivers")}

    def configured(self) -> Any:
        """A configuration that has devices: as it stands, the one of all defaults."""
        return self.driver.config()

    @probe
    def twin_case(self) -> tuple[Task, float]:
        """A task, and how many seconds the real device was measured to take for it."""
        raise NotImplementedError

    def site(self) -> Site:
        return Site(clock=FakeClock(), artifacts=MemoryArtifacts(), home=str(self.home), profile="sim")

    @promise()
    async def test_the_record_says_what_it_is_and_does_not_change(self) -> None:
        assert self.driver.name and self.driver.summary, "a driver has a name and a summary"
        assert isinstance(self.driver.isolation, Isolation)
        assert importlib.import_module(self.module).DRIVER is self.driver, "the record is called DRIVER"

    @promise()
    async def test_one_entry_point_names_it(self) -> None:
        named = self.entry_points().get(self.driver.name)
        assert named == f"{self.module}:DRIVER", f"the entry point '{self.driver.name}' is {named}"

    @promise()
    async def test_the_configuration_is_frozen_and_every_field_has_a_default(self) -> None:
        config = self.driver.config
        assert dataclasses.is_dataclass(config), "the configuration is a dataclass"
        assert config.__dataclass_params__.frozen, "the configuration is frozen"  # type: ignore[attr-defined]
        for field in dataclasses.fields(config):
            given = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            assert given, f"'{field.name}' has no default"
        assert config() == config(), "two configurations with the same values are equal"

    @promise()
    async def test_its_devices_are_known_without_touching_them(self) -> None:
        tasks = asyncio.all_tasks()
        devices = self.driver.devices(self.configured(), self.site())
        names = [device.spec.name for device in devices]
        assert names and len(set(names)) == len(names), f"devices need names of their own, not {names}"
        assert all(device.spec.driver == self.driver.name for device in devices), "`spec.driver` is the driver's name"
        assert asyncio.all_tasks() == tasks, "making a device starts nothing"
        again = self.driver.devices(self.configured(), self.site())
        assert [device.spec for device in again] == [device.spec for device in devices], "devices differ by chance"

    @promise()
    async def test_importing_it_imports_nothing_heavy(self) -> None:
        script = f"import sys; sys.path[:] = {sys.path!r}; import {self.module}; print(*sys.modules)"
        answer = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, f"it cannot be imported by itself: {answer.stderr}"
        heavy = set(HEAVY_MODULES.split()) & {name.partition(".")[0] for name in answer.stdout.split()}
        assert not heavy, f"importing it imports {', '.join(sorted(heavy))}; import that where it is used"

    @promise("twin_case")
    async def test_the_twin_takes_as_long_as_the_real_device(self) -> None:
        task, real_s = self.twin_case()
        assert self.driver.twin is not None, "there is no twin to test"
        clock = FakeClock()
        config = self.configured()
        device = self.driver.twin(self.driver.devices(config, self.site())[0].spec.name, config)
        attempt = FakeAttempt(clock=clock)
        await device.__aenter__()
        began_s = clock.now_s()
        await self.within(clock.carry(device.execute(task, attempt)), "the twin")
        twin_s = clock.now_s() - began_s
        await device.__aexit__(None, None, None)
        assert abs(twin_s - real_s) <= self.twin_error * real_s, f"the twin took {twin_s} s, the device {real_s} s"
