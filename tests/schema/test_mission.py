"""The schema of a mission document: durations, defaults, and the JSON Schema that is shipped."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from qaios.schema.mission import DURATION_MAX_S, MissionDocument, duration_s, duration_text, json_schema, task_specs


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90 s", 90.0), ("20 min", 1200.0), ("1.5h", 5400.0), ("2 d", 172800.0), ("250ms", 0.25), (" 3  s ", 3.0)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["90", 90, 1.5, "soon", "5 minutes", "-1 s", "0 s", "400 d", "", None, True, ["1 s"], "١ s"]
)
def test_anything_else_is_refused_with_a_remedy(text: object) -> None:
    with pytest.raises(ValueError, match=r".+, (write|use|give) "):
        duration_s(text)


@given(st.floats(min_value=1e-3, max_value=DURATION_MAX_S))
def test_a_duration_survives_being_written(seconds: float) -> None:
    assert duration_s(duration_text(seconds)) == pytest.approx(seconds, abs=1e-9)


def test_a_task_overrides_the_defaults_and_the_mission_deadline_caps_all() -> None:
    document = MissionDocument.model_validate(
        {
            "mission": "m",
            "deadline": "1 min",
            "defaults": {"priority": 3, "deadline": "30 s", "device": "d", "mode": "enhanced", "fallback": "x.f"},
            "tasks": {
                "a": {"do": "x.y"},
                "b": {"do": "x.y", "priority": 0, "deadline": "2 min", "device": "", "mode": "native", "fallback": ""},
            },
        }
    )
    a, b = task_specs(document)
    assert (a.priority, a.deadline_s, a.device, a.mode, a.fallback) == (3, 30.0, "d", "enhanced", "x.f")
    assert (b.priority, b.deadline_s, b.device, b.mode, b.fallback) == (0, 60.0, "", "native", "")


def test_python_may_say_arguments_where_the_file_says_with() -> None:
    one = MissionDocument.model_validate({"mission": "m", "tasks": {"a": {"do": "x.y", "with": {"k": 1}}}})
    two = MissionDocument.model_validate({"mission": "m", "tasks": {"a": {"do": "x.y", "arguments": {"k": 1}}}})
    assert one == two


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError):
        MissionDocument.model_validate({"mission": "m", "tasks": {"a": {"do": "x.y"}}, "taks": 1})


def test_the_shipped_json_schema_is_the_present_one() -> None:
    shipped = json.loads(files("qaios.schema").joinpath("mission.schema.json").read_text(encoding="utf-8"))
    assert shipped == json_schema(), "write it anew: qai mission schema > src/qaios/schema/mission.schema.json"
