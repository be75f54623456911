"""The driver of `docs/how-to/add-a-driver.md` is short, keeps every promise, and is what the page shows."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from examples.drivers.lab_bath import DRIVER
from examples.drivers.test_lab_bath import TestBath

from qaios.testing.driver_kit import DriverKit

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "add-a-driver.md"
FOLDER = ROOT / "examples" / "drivers"

__all__ = ["TestBath", "TestLabBathDriver"]  # pytest finds the promises of the device here


class TestLabBathDriver(DriverKit):
    lacks = {"twin_case": "there is no twin: the twin behaves as the estimate says"}
    driver, module = DRIVER, "examples.drivers.lab_bath"

    def entry_points(self) -> Mapping[str, str]:
        project = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return {name: f"examples.drivers.{value}" for name, value in project["entry-points"]["qaios.drivers"].items()}


def test_the_driver_is_one_file_under_a_hundred_lines() -> None:
    assert len((FOLDER / "lab_bath.py").read_text(encoding="utf-8").splitlines()) < 100


@pytest.mark.parametrize("name", ["lab_bath.py", "pyproject.toml", "test_lab_bath.py"])
def test_the_page_shows_the_file_that_is_tested(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = re.findall(rf"`examples/drivers/{re.escape(name)}`[^\n]*\n+```\w+\n(.*?)```\n", page, re.DOTALL)
    assert shown == [(FOLDER / name).read_text(encoding="utf-8")]
