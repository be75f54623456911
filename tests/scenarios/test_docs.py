"""What the documents about missions say is true: their examples are sound, their tables complete."""

from __future__ import annotations

import ast
import re
from importlib.resources import files
from pathlib import Path

import pytest

from qaios.bridge.missions import read_mission
from qaios.client.local import catalogue
from qaios.schema.mission import Defaults, MissionDocument, TaskDocument
from qaios.schema.views import MissionReport

DOCS = Path(__file__).parents[2] / "docs"
HOW_TO = (DOCS / "how-to" / "write-a-mission.md").read_text(encoding="utf-8")
FORMAT = (DOCS / "reference" / "mission-format.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("text", blocks(HOW_TO, "yaml"), ids=lambda text: text.split("\n")[0])
def test_every_mission_shown_is_sound_on_the_simulated_fleet(text: str, tmp_path: Path) -> None:
    (tmp_path / "bell.qasm").write_text("OPENQASM 3.0;\n")
    read_mission(text.encode(), file="shown.yaml", folder=tmp_path, catalogue=catalogue(home=tmp_path, profile="sim"))


@pytest.mark.parametrize("template", ["compute", "quantum", "drone"])
def test_every_template_is_sound_on_the_simulated_fleet(template: str, tmp_path: Path) -> None:
    text = files("qaios.cli").joinpath("templates", f"{template}.yaml").read_bytes()
    read_mission(text, file=template, catalogue=catalogue(home=tmp_path, profile="sim"))


def test_the_python_shown_can_be_read() -> None:
    (shown,) = blocks(HOW_TO, "python")
    ast.parse(shown)


def test_the_reference_names_every_field() -> None:
    keys = {
        field.alias or name
        for model in (MissionDocument, TaskDocument, Defaults)
        for name, field in model.model_fields.items()
    }
    assert {key for key in keys if f"`{key}`" not in FORMAT} == set()
    assert {name for name in MissionReport.model_fields if name not in FORMAT} == set()
