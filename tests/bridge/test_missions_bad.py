"""Every kind of mistake in a mission file is named with its place and what to do, all at once.

`bad_missions/golden.txt` holds what is said of each file in `bad_missions/`. After a deliberate change of wording,
`python -m tests.bridge.test_missions_bad` writes it anew; read the difference before committing it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qaios.bridge.marks import Faults, parse, plain
from qaios.bridge.missions import check_document, load_mission, read_mission
from qaios.core.errors import MissionInvalid, NotFound
from qaios.schema.mission import MissionDocument
from tests.bridge.fleet import CATALOGUE

FOLDER = Path(__file__).parent / "bad_missions"
GOLDEN = FOLDER / "golden.txt"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))


def said_of(name: str) -> str:
    content = (FOLDER / name).read_bytes()
    with pytest.raises(MissionInvalid) as caught:
        read_mission(content, file=name, folder=FOLDER, catalogue=CATALOGUE)
    return str(caught.value)


def golden() -> dict[str, str]:
    parts = GOLDEN.read_text(encoding="utf-8").split("== ")[1:]
    return {part.split("\n", 1)[0]: part.split("\n", 1)[1].strip("\n") for part in parts}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_says_everything_that_is_wrong_with_it(name: str) -> None:
    assert said_of(name) == golden()[name]


def test_there_are_enough_bad_files_and_each_has_its_golden_words() -> None:
    assert len(FILES) >= 25
    assert sorted(golden()) == FILES


def test_faults_come_in_file_order() -> None:
    with pytest.raises(MissionInvalid) as caught:
        load_mission(FOLDER / "everything_at_once.yaml", CATALOGUE)
    places = [(fault.line, fault.column) for fault in caught.value.faults]
    assert places == sorted(places)
    assert len(places) >= 14


def test_a_file_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound):
        load_mission(FOLDER / "nowhere.yaml")


def test_a_thousand_faults_are_cut_and_counted() -> None:
    text = "mission: many\ntasks:\n" + "".join(f"  t{i}: {{do: drone.scan, wrong: 1}}\n" for i in range(1000))
    with pytest.raises(MissionInvalid) as caught:
        read_mission(text.encode(), file="many.yaml", catalogue=CATALOGUE)
    assert len(caught.value.faults) == 201
    assert "800 more faults" in caught.value.faults[-1].what


def test_a_document_without_a_file_is_checked_too() -> None:
    tasks = {"a": {"do": "drone.scna", "needs": ["b"]}, "b": {"do": "drone.scan", "needs": ["a"]}}
    document = MissionDocument.model_validate({"mission": "posted", "tasks": tasks})
    faults = [str(fault) for fault in check_document(document, CATALOGUE)]
    assert len(faults) == 2
    assert "unknown action 'drone.scna'" in "".join(faults)
    assert "a → b → a" in "".join(faults)


def test_aliases_cannot_nest_deeper_than_the_limit() -> None:
    chain = "a: &a0 [1]\n" + "".join(f"b{i}: &a{i} {'[' * 40}*a{i - 1}{']' * 40}\n" for i in range(1, 200))
    faults = Faults("chain.yaml")
    tree = parse(chain.encode(), faults)
    assert "nested more than 64 deep" in str(faults.sorted()[0])
    assert tree is not None
    plain(tree)


PIECES = (
    ("mission: m\n", "tasks:\n", "  t:\n", "    do: drone.scan\n", "    needs: [t", "    with: {file: x}\n"),
    ("deadline: 5\n", "    mode: native\n", "defaults: {retries: 1}\n", "%YAML 1.2\n", "---\n", "${t.x}", "${"),
    ("]", "{", "}", "&a ", "*a", "<<: ", "? ", "!!int ", "- ", ": ", "'", '"', ">\n", "~", "1e999", "\t", "#", "\n"),
    ("\\ud800", "\ufeff", "é", "\u2028"),
)
FRAGMENTS = st.sampled_from([piece for line in PIECES for piece in line])


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(FRAGMENTS, max_size=25).map(lambda parts: "".join(parts).encode())))
def test_no_input_crashes_the_reader(content: bytes) -> None:
    try:
        document = read_mission(content, file="any.yaml", catalogue=CATALOGUE)
    except MissionInvalid as error:
        assert error.faults
        assert all(fault.line >= 1 and fault.column >= 1 and fault.what and fault.remedy for fault in error.faults)
    else:
        assert document.tasks


if __name__ == "__main__":
    GOLDEN.write_text("\n".join(f"== {name}\n{said_of(name)}\n" for name in FILES), encoding="utf-8")
