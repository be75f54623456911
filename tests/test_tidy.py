"""Style is a unit test: what a reader may count on everywhere in this repository, checked without an opinion.

Each test collects every fault before it fails, with the place and what to do.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from qaios.cli import verbs

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "qaios"
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 800

# Words that have no meaning of their own here (DESIGN: "Not used"). What is called so abroad keeps its name.
NOT_USED = {"job", "workflow", "manager", "handler", "helper", "service", "backend", "resource", "utils", "util"}
FOREIGN = {"BackendV2", "FakeBackendV2"}
VAGUE_MODULES = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "base", "tools"}

# Where packages come from and where somebody's files lie is nobody's business.
PRIVATE_TEXT = re.compile(
    r"(?:index-url|extra-index|find-links|registry)\s*[=:]\s*\S*://"
    r"|\"resolved\":"
    r"|/(?:root|home/[a-z]+|Users/[A-Za-z]+)/[\w.]"
    r"|/(?:work|tmp)/(?:shared|wt|venv|repo)\b"
)
TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".cfg", ".ts", ".tsx", ".html", ".css", ""}

MODULES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def place(path: Path, line: int = 1) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def definitions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield path, node


def words(name: str) -> set[str]:
    """`ThreadPool_size2` -> thread, pool, size."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name]


def none_of(faults: list[str]) -> None:
    assert not faults, "\n".join(["", *faults])


def test_every_module_tells_its_story() -> None:
    none_of([f"{place(path)}: say what comes in, what goes out and why" for path in MODULES if not _story(path)])


def _story(path: Path) -> str:
    return ast.get_docstring(TREES[path]) or ""


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    none_of(
        [f"{place(path)}: {length} lines; split it" for path, length in lengths.items() if length > MODULE_LINES_MAX]
    )


def test_no_function_is_longer_than_a_screen() -> None:
    none_of(
        [
            f"{place(path, node.lineno)}: {node.name} has {length} lines"
            for path, node in definitions()
            if not isinstance(node, ast.ClassDef)
            and (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
        ]
    )


def test_no_name_uses_a_word_without_a_meaning_here() -> None:
    named = [(path, node.lineno, node.name) for path, node in definitions()]
    named += [(path, 1, path.stem) for path in MODULES]
    none_of(
        [
            f"{place(path, line)}: '{name}' says {', '.join(sorted(stray))}; see the words of ARCHITECTURE.md"
            for path, line, name in named
            if name not in FOREIGN and (stray := words(name) & NOT_USED)
        ]
    )


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    none_of([f"{place(path)}: name it after what it does" for path in MODULES if path.stem in VAGUE_MODULES])


def test_nothing_prints() -> None:
    none_of(
        [
            f"{place(path, node.lineno)}: print; the command line uses click.echo, the rest reports or logs"
            for path, tree in TREES.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
    )


def test_no_error_is_swallowed_whole() -> None:
    none_of(
        [
            f"{place(path, node.lineno)}: except … pass; handle it, or say in a comment why not by `suppress`"
            for path, tree in TREES.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.ExceptHandler)
            and (node.type is None or getattr(node.type, "id", "") in {"Exception", "BaseException"})
            and all(isinstance(line, ast.Pass) for line in node.body)
        ]
    )


def test_nothing_is_left_to_do_in_the_code() -> None:
    marks = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b|raise NotImplementedError\(\s*[\"']not (?:yet )?implemented")
    none_of(
        [
            f"{place(path, number)}: {line.strip()}"
            for path in MODULES
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            if marks.search(line)
        ]
    )


@pytest.mark.parametrize("group", sorted(PROJECT["entry-points"]))
def test_every_entry_point_leads_somewhere(group: str) -> None:
    faults = []
    for name, value in PROJECT["entry-points"][group].items():
        module, _, attribute = value.partition(":")
        path = ROOT / "src" / (module.replace(".", "/") + ".py")
        if not path.exists():
            faults.append(f"{group}: {name} = {value}: there is no {place(path)}")
        elif attribute not in _assigned(TREES[path]):
            faults.append(f"{group}: {name} = {value}: {place(path)} defines no {attribute}")
    none_of(faults)


def _assigned(tree: ast.Module) -> set[str]:
    targets: list[ast.expr] = []
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AnnAssign):
            targets.append(node.target)
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_every_driver_has_an_entry_point() -> None:
    """A module of drivers with a record DRIVER that nothing names would never be found."""
    named = set(PROJECT["entry-points"]["qaios.drivers"].values())
    none_of(
        [
            f"{place(path)}: DRIVER is named by no entry point in pyproject.toml"
            for path in sorted((SOURCE / "drivers").glob("*.py"))
            if "DRIVER" in _assigned(TREES[path]) and f"qaios.drivers.{path.stem}:DRIVER" not in named
        ]
    )


def test_no_tracked_text_tells_of_a_machine_or_a_registry() -> None:
    faults = []
    for path in tracked():
        if path.suffix not in TEXT_SUFFIXES or not path.is_file() or path == Path(__file__):
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # not a text
        faults += [
            f"{place(path, n)}: {line.strip()[:120]}" for n, line in enumerate(lines, 1) if PRIVATE_TEXT.search(line)
        ]
    none_of(faults)


def test_every_link_between_our_pages_leads_somewhere() -> None:
    faults = []
    for page in [path for path in tracked() if path.suffix == ".md" and path.exists()]:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            for target in re.findall(r"\]\(([^)#\s]+)", line):
                if "://" not in target and not (page.parent / target).exists():
                    faults.append(f"{place(page, number)}: there is no {target}")
    none_of(faults)


def test_every_verb_is_on_the_page_of_the_command_line_in_its_own_words() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    wanted = [f"| `qai {verb}` | {line} |" for verb, (_, line) in verbs.VERBS.items()]
    wanted += [f"| `qai mission {verb}` | {line} |" for verb, (_, line) in verbs.MISSION_VERBS.items()]
    none_of([f"docs/command-line.md has no row: {row}" for row in wanted if row not in page])
    shown = re.findall(r"^\| `qai ([a-z ]+)`", page, re.MULTILINE)
    assert len(shown) == len(wanted), "the page shows a verb that does not exist"


def test_the_contracts_are_these() -> None:
    """What drivers, journals and engines of other people build on. A change here is a change for all of them."""
    tree = TREES[SOURCE / "contracts.py"]
    assert sorted(node.name for node in tree.body if isinstance(node, ast.ClassDef)) == [
        "Artifacts",
        "Attempt",
        "BatchDevice",
        "Berth",
        "Bus",
        "Clock",
        "Device",
        "Driver",
        "Engine",
        "Isolation",
        "Journal",
        "Placement",
        "Placements",
        "Planner",
        "Policy",
        "PreparedDevice",
        "Ready",
        "Site",
    ]


def test_importing_qaios_costs_nothing() -> None:
    script = (
        f"import sys; sys.path[:] = {sys.path!r}; was = set(sys.modules); import qaios; print(*set(sys.modules) - was)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"numpy", "msgspec", "asyncio", "click", "pydantic", "fastapi", "rich"} & set(loaded)
    assert not heavy, f"`import qaios` imports {', '.join(sorted(heavy))}"
