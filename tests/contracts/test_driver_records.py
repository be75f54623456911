"""Every built-in driver's record keeps the promises of the kit."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qaios.contracts import Site
from qaios.drivers import aer, air, compute, hub, liquid, mavlink, world
from qaios.drivers.mavlink_plans import Endpoint, MavlinkConfig
from qaios.testing.driver_kit import DriverKit
from qaios.testing.promise import promise

ROOT = Path(__file__).parents[2]


class BuiltInDriverKit(DriverKit):
    lacks = {"twin_case": "there is no twin: the twin behaves as the estimate says"}

    def entry_points(self) -> Mapping[str, str]:
        """Of the source tree, installed or not."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        points: Mapping[str, str] = project["entry-points"]["qaios.drivers"]
        return points


class InWorldDriverKit(BuiltInDriverKit):
    """Of a driver whose devices are only there where there is a simulated world."""

    def site(self) -> Site:
        return replace(super().site(), world="run/world.json")

    @promise()
    async def test_without_a_world_there_is_nothing(self) -> None:
        assert not self.driver.devices(self.configured(), super().site())


class TestAir(InWorldDriverKit):
    driver, module = air.DRIVER, "qaios.drivers.air"


class TestWorld(InWorldDriverKit):
    driver, module = world.DRIVER, "qaios.drivers.world"


class TestCompute(BuiltInDriverKit):
    driver, module = compute.DRIVER, "qaios.drivers.compute"


class TestAer(BuiltInDriverKit):
    driver, module = aer.DRIVER, "qaios.drivers.aer"


class TestHub(BuiltInDriverKit):
    driver, module = hub.DRIVER, "qaios.drivers.hub"


class TestLiquid(BuiltInDriverKit):
    driver, module = liquid.DRIVER, "qaios.drivers.liquid"


class TestMavlink(BuiltInDriverKit):
    driver, module = mavlink.DRIVER, "qaios.drivers.mavlink"

    def configured(self) -> Any:
        """Without a simulated world it has the vehicles it is told of, and no other."""
        return MavlinkConfig(vehicles=(Endpoint("drone-1", "127.0.0.1", 14550, 1),))


def test_the_devices_of_every_driver_are_put_to_the_device_kit() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    kits = [text for text in texts if "(DeviceKit)" in text or ("Kit)" in text and "device_kit" in text)]
    modules = [value.partition(":")[0] for value in BuiltInDriverKit().entry_points().values()]
    missing = [module for module in modules if not any(f"from {module} import" in text for text in kits)]
    assert not missing, f"no test inherits DeviceKit for the devices of {', '.join(missing)}"
