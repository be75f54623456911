"""Mission files: YAML in, a `MissionDocument` out, or every fault at once with its file, line and column.

The command line, the notebook and the HTTP door read missions here. The text becomes a marked tree (`bridge.marks`),
the tree becomes plain data that the pydantic schema judges, each of its errors is given back its place in the tree,
and `bridge.mission_checks` asks whether the graph hangs together and the fleet can do it. All three speak before
anything is raised, so that a person mends a file in one go.

A mapping `{file: NAME}` inside `with:` stands for the content of a file beside the mission: `.json` and `.geojson` are
parsed, `.yaml` and `.yml` too, anything else is text. The file must lie in the mission file's folder or below it, so
that a mission from elsewhere cannot carry off what else is on the disk. Such a mapping is only read from files; in a
document that came over the network it is plain data.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from qaios.bridge.marks import SIZE_MAX_BYTES, Faults, Listing, Marked, Scalar, Table, marked, parse, plain
from qaios.bridge.mission_checks import check, remedy
from qaios.core.errors import Fault, MissionInvalid, NotFound
from qaios.core.values import DeviceSpec
from qaios.schema.mission import Defaults, MissionDocument, TaskDocument

_JSON_SUFFIXES = frozenset({".json", ".geojson"})
_YAML_SUFFIXES = frozenset({".yaml", ".yml"})

# Where a person may write a bare word or number that is meant as text: `mission: 7`, `needs: [1, 2]`.
_TEXT_KEYS = frozenset({"mission", "goal", "profile", "do", "mode", "fallback", "device", "deadline"})


def load_mission(path: Path, catalogue: Sequence[DeviceSpec] | None = None) -> MissionDocument:
    """Read and check a mission file. Raises `NotFound` when it cannot be read and `MissionInvalid` with its faults."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NotFound(
            f"cannot read {path}: {error.strerror}", hint="give the path of a mission file, such as survey.yaml"
        ) from error
    return read_mission(content, file=str(path), folder=path.parent, catalogue=catalogue)


def read_mission(
    content: bytes,
    *,
    file: str,
    folder: Path | None = None,
    catalogue: Sequence[DeviceSpec] | None = None,
    profiles: Collection[str] = (),
    modules: Sequence[Path] = (),
) -> MissionDocument:
    """Read and check the text of a mission.

    `file` is what faults are reported against. Files named inside are read below `folder`; without one they may not
    be named. Without a `catalogue` it is not asked whether a fleet can do it, nor without `profiles` whether there is
    the profile it names. A `compute.call` of a module that lies in `folder` or in one of the folders `modules` gets
    that folder as its `path`: the node may run elsewhere. Raises `MissionInvalid`.
    """
    faults = Faults(file)
    root = parse(content, faults)
    document = None
    if root is not None:
        document = _Reader(faults, folder, modules).read(root)
        check(root, faults, catalogue)
        _check_profile(root, faults, profiles)
    if len(faults) or document is None:
        raise MissionInvalid(faults.sorted())
    return document


def _check_profile(root: Marked, faults: Faults, profiles: Collection[str]) -> None:
    named = root.get("profile") if isinstance(root, Table) else None
    if profiles and isinstance(named, Scalar) and named.text and named.text not in profiles:
        advice = remedy(named.text, profiles, f"use one of {', '.join(profiles)}, or leave it out")
        faults.add(named, f"there is no profile '{named.text}'", advice)


def outline(content: bytes) -> tuple[str, frozenset[str]]:
    """The profile a mission asks for, "" where it asks for none, and the actions it names, as far as they can be read.

    For choosing the fleet that a file is checked against, before it is: a file with faults has an outline too.
    """
    root = parse(content, Faults(""))
    profile = root.get("profile") if isinstance(root, Table) else None
    tasks = root.get("tasks") if isinstance(root, Table) else None
    entries = tasks.entries.values() if isinstance(tasks, Table) else ()
    named = (entry.get("do") for _, entry in entries if isinstance(entry, Table))
    return profile.text if isinstance(profile, Scalar) else "", frozenset(
        action.text for action in named if isinstance(action, Scalar)
    )


def check_document(document: MissionDocument, catalogue: Sequence[DeviceSpec] | None) -> tuple[Fault, ...]:
    """The faults of a document that never was a file: its graph, and what the fleet cannot do. Empty: it is sound."""
    faults = Faults(f"mission '{document.mission}'")
    check(marked(document.model_dump(mode="json", by_alias=True, exclude_none=True)), faults, catalogue)
    return faults.sorted()


class _Reader:
    """From a marked tree to the document, by way of the schema."""

    def __init__(self, faults: Faults, folder: Path | None, modules: Sequence[Path]) -> None:
        self._faults = faults
        self._folder = folder
        self._folders = [one.resolve() for one in ([] if folder is None else [folder, *modules])]
        self._lies: dict[str, str] = {}  # top-level module -> the folder it lies in, "" for none of ours

    def read(self, root: Marked) -> MissionDocument | None:
        if not isinstance(root, Table):
            self._faults.add(root, "a mission is a mapping", "start with 'mission: NAME' and 'tasks:'")
            return None
        data = self._plain(root, top=True)
        tasks = root.get("tasks")
        if isinstance(tasks, Table) and isinstance(data.get("tasks"), dict):
            data["tasks"] = {
                name: self._task(entry) if isinstance(entry, Table) else plain(entry)
                for name, (_, entry) in tasks.entries.items()
            }
        defaults = root.get("defaults")
        if isinstance(defaults, Table):
            data["defaults"] = self._plain(defaults)
        try:
            return MissionDocument.model_validate(data)
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_input=False):
                self._report(detail, root)
            return None

    def _plain(self, table: Table, *, top: bool = False) -> dict[str, Any]:
        """A table of the format itself, where bare words are text and an empty value is a fault."""
        data: dict[str, Any] = {}
        for name, (key, value) in table.entries.items():
            if isinstance(value, Scalar) and value.value is None:
                self._faults.add(key, f"'{name}' has no value", "write one or remove the key")
                if top and name in ("mission", "tasks"):
                    data[name] = "-" if name == "mission" else {"-": {"do": "-"}}  # reported once is enough
            elif isinstance(value, Scalar) and name in _TEXT_KEYS:
                data[name] = value.text
            elif top and name in ("tasks", "defaults") and isinstance(value, Table):
                data[name] = {}
            else:
                data[name] = plain(value)
        return data

    def _task(self, entry: Table) -> dict[str, Any]:
        arguments, needs = entry.get("with"), entry.get("needs")
        data = self._plain(Table(entry.line, entry.column, {k: v for k, v in entry.entries.items() if k != "with"}))
        if isinstance(needs, Listing):
            data["needs"] = [item.text if isinstance(item, Scalar) else plain(item) for item in needs.items]
        if isinstance(arguments, Scalar) and arguments.value is None:
            self._faults.add(entry.entries["with"][0], "'with' has no value", "write one or remove the key")
        elif arguments is not None:
            data["with"] = self._content(arguments)
            if data.get("do") == "compute.call" and isinstance(data["with"], dict):
                self._point(data["with"])
        return data

    def _point(self, call: dict[str, Any]) -> None:
        """Say where the function's module lies when it is one of the author's own."""
        name = call.get("call")
        if "path" in call or not isinstance(name, str):
            return
        top = name.partition(":")[0].partition(".")[0]
        if top not in self._lies:
            self._lies[top] = self._folder_of(top)
        if self._lies[top]:
            call["path"] = [self._lies[top]]

    def _folder_of(self, top: str) -> str:
        if not top.isidentifier() or top == "qaios":
            return ""
        lying = (one for one in self._folders if (one / f"{top}.py").is_file() or (one / top).is_dir())
        return str(next(lying, ""))

    def _content(self, node: Marked) -> Any:
        """An argument as plain data, with the files it names read in."""
        if isinstance(node, Scalar):
            return node.value
        if isinstance(node, Listing):
            return [self._content(item) for item in node.items]
        if list(node.entries) == ["file"]:
            return self._file(node.entries["file"][1])
        return {key: self._content(value) for key, (_, value) in node.entries.items()}

    def _file(self, name: Marked) -> Any:
        if not isinstance(name, Scalar) or not isinstance(name.value, str):
            self._faults.add(name, "'file' must name a file", "write for instance {file: area.geojson}")
            return None
        path = self._path(name)
        if path is None:
            return None
        try:
            if path.stat().st_size > SIZE_MAX_BYTES:
                self._faults.add(name, f"'{name.text}' is too large", f"keep it under {SIZE_MAX_BYTES} bytes")
                return None
            content = path.read_bytes()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self._faults.add(name, f"cannot read '{name.text}': {reason}", "name a file beside the mission file")
            return None
        return self._parsed(content, path, name)

    def _path(self, name: Scalar) -> Path | None:
        if self._folder is None:
            self._faults.add(name, "this mission has no folder to read files from", "write the content out")
            return None
        try:
            folder = self._folder.resolve()
            path = (folder / name.text).resolve()
        except (OSError, ValueError, RuntimeError):
            self._faults.add(name, f"'{name.text}' is not a path", "name a file beside the mission file")
            return None
        if not path.is_relative_to(folder):
            what = f"'{name.text}' is outside the mission file's folder"
            self._faults.add(name, what, "put the file beside the mission file")
            return None
        return path

    def _parsed(self, content: bytes, path: Path, name: Scalar) -> Any:
        suffix = path.suffix.lower()
        shown = str(Path(self._faults.file).parent / name.text)
        if suffix in _YAML_SUFFIXES:
            inner = Faults(shown)
            tree = parse(content, inner)
            self._faults.take(inner.sorted())
            return plain(tree) if tree is not None else None
        try:
            text = content.decode("utf-8-sig")
            return json.loads(text, parse_constant=_refuse_constant) if suffix in _JSON_SUFFIXES else text
        except json.JSONDecodeError as error:
            fault = Fault(shown, error.lineno, error.colno, f"this is not JSON: {error.msg}", "mend it here")
            self._faults.take((fault,))
        except (UnicodeDecodeError, ValueError, RecursionError) as error:
            self._faults.add(name, f"cannot read '{name.text}': {error}", "save it as UTF-8 text, JSON without NaN")
        return None

    def _report(self, detail: ErrorDetails, root: Table) -> None:
        place, key, path = _locate(root, detail)
        what, advice = _explain(detail, key, path)
        self._faults.add(place, what, advice)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a finite number")


def _locate(root: Table, detail: ErrorDetails) -> tuple[Marked, str, str]:
    """Where a schema error points: the node, the last key, and the path in words.

    A key that is unknown or badly named is pointed at itself, and so is the owner of a key that is missing; every
    other error points at the value.
    """
    node: Marked = root
    at_key = Scalar(root.line, root.column, "", "")
    steps: list[str] = []
    key = ""
    for step in detail["loc"]:
        if isinstance(step, int) and isinstance(node, Listing) and step < len(node.items):
            node = node.items[step]
            steps.append(str(step))
        elif isinstance(node, Table) and str(step) in node.entries:
            at_key, node = node.entries[str(step)]
            key = str(step)
            steps.append(key)
        elif step == "[key]":
            return at_key, key, ".".join(steps)
        elif isinstance(step, str):
            key = step  # the key that is missing
    return at_key if detail["type"] in ("extra_forbidden", "missing") else node, key, ".".join(steps)


def _explain(detail: ErrorDetails, key: str, path: str) -> tuple[str, str]:
    """A schema error in the words of a mission's author."""
    kind, context = detail["type"], detail.get("ctx", {})
    where = f"'{path}'" if path else "the mission"
    if kind == "duration":
        return f"{where}: {context['what']}", str(context["remedy"])
    if kind == "missing":
        remedies = {"mission": "add 'mission: NAME'", "tasks": "add 'tasks:'", "do": "add 'do: ACTION'"}
        return f"{where} lacks '{key}'", remedies.get(key, f"add '{key}:'")
    if kind == "extra_forbidden":
        known = _known_keys(detail["loc"])
        return f"unknown key '{key}'", remedy(key, known, f"use one of {', '.join(known)}")
    if kind == "enum":
        return f"{where} must be {context['expected']}", "choose one of them"
    if kind == "string_pattern_mismatch":
        return f"'{key}' is not a name a {_kind_of_name(detail['loc'])} can have", _name_remedy(detail["loc"])
    if kind == "too_short":
        return f"{where} is empty", "write at least one entry"
    if kind == "dict_type" and path == "tasks":
        return "'tasks' must be a mapping from a name to a task", "write 'NAME: {do: ACTION}' lines below it"
    if kind in _TYPES:
        what, advice = _TYPES[kind]
        return f"{where} must be {what}", advice
    limit = next(
        (context[word] for word in ("ge", "le", "gt", "lt", "max_length", "min_length") if word in context), ""
    )
    words = {"greater_than_equal": "at least", "less_than_equal": "at most", "string_too_long": "not longer than"}
    if kind in words:
        return f"{where} must be {words[kind]} {limit}", "change it"
    message = detail["msg"]
    return f"{where}: {message[:1].lower()}{message[1:]}", "see docs/how-to/write-a-mission.md"


_TYPES = {
    "string_type": ("text", "write a word or a text in quotes"),
    "int_type": ("a whole number", "write a number without quotes, such as 10"),
    "int_from_float": ("a whole number", "write a number without a fraction"),
    "dict_type": ("a mapping", "write 'key: value' lines below it"),
    "model_type": ("a mapping", "write 'key: value' lines below it"),
    "model_attributes_type": ("a mapping", "write 'key: value' lines below it"),
    "tuple_type": ("a list", "write [a, b]"),
    "list_type": ("a list", "write [a, b]"),
}


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    models: dict[int, type[BaseModel]] = {1: MissionDocument, 2: Defaults}
    model = models.get(len(loc), TaskDocument)
    return [spec.alias or name for name, spec in model.model_fields.items()]


def _kind_of_name(loc: tuple[int | str, ...]) -> str:
    return {"mission": "mission", "profile": "profile"}.get(str(loc[0]), "task")


def _name_remedy(loc: tuple[int | str, ...]) -> str:
    if loc[0] == "mission":
        return "use up to 200 characters on one line, no space at either end"
    if loc[0] == "profile":
        return "use small letters, digits, - and _"
    return "use up to 120 characters without . / * $ { } and no space at either end"
