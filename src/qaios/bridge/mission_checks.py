"""Does a mission hang together, and can this fleet do it?

`bridge.missions` asks this of a file's tree, where every answer has a line and a column; a node asks it of a
document that came as JSON or from Python, where the answer names the task. The checks read the tree leniently: a
task whose priority is misspelt is still a task that others may need, so one mistake hides no other.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from qaios.bridge.marks import Faults, Listing, Marked, Scalar, Table, scalars
from qaios.bridge.references import PATH, WRITTEN
from qaios.core.values import ActionSpec, DeviceSpec, Mode

_WAITING, _OPEN, _CLOSED = 0, 1, 2


@dataclass(slots=True)
class _Task:
    """What the checks need to know of one entry of `tasks:`; what is missing or misspelt is empty."""

    name: str
    key: Scalar
    do: Scalar | None = None
    mode: str = Mode.CLASSICAL
    mode_place: Marked | None = None
    fallback: Scalar | None = None
    device: Scalar | None = None
    arguments: Table | None = None
    needs: list[Scalar] = field(default_factory=list)


def check(root: Marked, faults: Faults, catalogue: Sequence[DeviceSpec] | None) -> None:
    """Add to `faults` what is wrong with the graph and, given a fleet's catalogue, what that fleet cannot do."""
    tasks = _tasks(root)
    _check_needs(tasks, faults)
    _check_cycles(tasks, faults)
    _check_references(tasks, faults)
    if catalogue is not None:
        fleet = _Fleet(catalogue)
        for task in tasks.values():
            fleet.check(task, faults)


def closest(word: str, known: Iterable[str]) -> str:
    """The known word most like this one, "" when none is."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return matches[0] if matches else ""


def remedy(word: str, known: Iterable[str], otherwise: str) -> str:
    """`did you mean …` where something is close, else what else to do."""
    match = closest(word, known)
    return f"did you mean '{match}'?" if match else otherwise


def _tasks(root: Marked) -> dict[str, _Task]:
    if not isinstance(root, Table):
        return {}
    entries, defaults = root.get("tasks"), root.get("defaults")
    if not isinstance(entries, Table):
        return {}
    common = defaults if isinstance(defaults, Table) else Table(0, 0)
    return {name: _task(name, key, entry, common) for name, (key, entry) in entries.entries.items()}


def _task(name: str, key: Scalar, entry: Marked, common: Table) -> _Task:
    if not isinstance(entry, Table):
        return _Task(name, key)

    def written(what: str) -> Scalar | None:
        value = entry.get(what) or common.get(what)
        return value if isinstance(value, Scalar) and value.value not in (None, "") else None

    mode, needs, arguments = written("mode"), entry.get("needs"), entry.get("with")
    return _Task(
        name=name,
        key=key,
        do=written("do"),
        mode=mode.text if mode else Mode.CLASSICAL,
        mode_place=mode,
        fallback=written("fallback"),
        device=written("device"),
        arguments=arguments if isinstance(arguments, Table) else None,
        needs=_names(needs),
    )


def _names(needs: Marked | None) -> list[Scalar]:
    if isinstance(needs, Scalar) and needs.value is not None:
        return [needs]  # the schema asks for a list; what was meant is clear enough to look further
    return [item for item in needs.items if isinstance(item, Scalar)] if isinstance(needs, Listing) else []


def _check_needs(tasks: dict[str, _Task], faults: Faults) -> None:
    for task in tasks.values():
        seen: set[str] = set()
        for need in task.needs:
            if need.text == task.name:
                faults.add(need, f"task '{task.name}' needs itself", "remove it from 'needs'")
            elif need.text not in tasks:
                otherwise = f"name one of the mission's tasks: {_some(tasks)}"
                faults.add(
                    need,
                    f"task '{task.name}' needs '{need.text}', which is not a task of this mission",
                    remedy(need.text, tasks, otherwise),
                )
            elif need.text in seen:
                faults.add(need, f"task '{task.name}' needs '{need.text}' twice", "name it once")
            seen.add(need.text)


def _check_cycles(tasks: dict[str, _Task], faults: Faults) -> None:
    """Depth first without recursion: a need that leads back to an open task closes a cycle, which is named whole."""
    state = dict.fromkeys(tasks, _WAITING)
    for start in tasks:
        if state[start] != _WAITING:
            continue
        path = [start]
        state[start] = _OPEN
        pending: list[Iterator[Scalar]] = [iter(tasks[start].needs)]
        while pending:
            need = next(pending[-1], None)
            if need is None:
                pending.pop()
                state[path.pop()] = _CLOSED
            elif need.text in tasks and need.text != path[-1]:
                if state[need.text] == _OPEN:
                    circle = [*path[path.index(need.text) :], need.text]
                    faults.add(
                        need, f"tasks need each other in a circle: {' → '.join(circle)}", "remove one of these needs"
                    )
                elif state[need.text] == _WAITING:
                    state[need.text] = _OPEN
                    path.append(need.text)
                    pending.append(iter(tasks[need.text].needs))


def _check_references(tasks: dict[str, _Task], faults: Faults) -> None:
    for task in tasks.values():
        if task.arguments is None:
            continue
        for scalar in scalars(task.arguments):
            if isinstance(scalar.value, str) and "${" in scalar.value:
                for reference in _references(scalar, faults):
                    _check_reference(reference, scalar, task, tasks, faults)


def _references(scalar: Scalar, faults: Faults) -> Iterator[str]:
    """The paths of a text's references; what opens like a reference and is none is a fault."""
    found = WRITTEN.findall(scalar.text)
    if len(found) != scalar.text.count("${"):
        faults.add(scalar, "'${' opens a reference that is not closed", "write '${task}' or '${task.path}'")
    for reference in found:
        if PATH.fullmatch(reference):
            yield reference
        else:
            advice = "write '${task}', '${task.path}' or '${task.*.path}' with letters, digits, '_' and '-'"
            faults.add(scalar, f"'${{{reference}}}' is not a reference", advice)


def _check_reference(reference: str, scalar: Scalar, task: _Task, tasks: dict[str, _Task], faults: Faults) -> None:
    source = reference.split(".", 1)[0]
    if source == task.name:
        faults.add(scalar, f"'${{{reference}}}' refers to the task's own result", "refer to a task that it needs")
    elif source not in tasks:
        what = f"'${{{reference}}}' refers to '{source}', which is not a task of this mission"
        faults.add(scalar, what, remedy(source, tasks, f"refer to a task that '{task.name}' needs"))
    elif all(need.text != source for need in task.needs) and source not in _upstream(task, tasks):
        what = f"'${{{reference}}}' refers to '{source}', which '{task.name}' does not need"
        faults.add(scalar, what, f"add '{source}' to the needs of '{task.name}'")


def _upstream(task: _Task, tasks: dict[str, _Task]) -> set[str]:
    """Everything that is done before this task begins."""
    found: set[str] = set()
    pending = [need.text for need in task.needs]
    while pending:
        name = pending.pop()
        if name in tasks and name not in found:
            found.add(name)
            pending.extend(need.text for need in tasks[name].needs)
    return found


class _Fleet:
    """A catalogue, asked by action and by device."""

    def __init__(self, catalogue: Sequence[DeviceSpec]) -> None:
        self._devices = {spec.name: spec for spec in catalogue}
        self._offers: dict[str, list[tuple[DeviceSpec, ActionSpec]]] = {}
        for spec in catalogue:
            for action in spec.actions:
                self._offers.setdefault(action.name, []).append((spec, action))

    def check(self, task: _Task, faults: Faults) -> None:
        if task.fallback is not None and task.fallback.text not in self._offers:
            what = f"the fallback '{task.fallback.text}' is not an action of this fleet"
            faults.add(
                task.fallback, what, remedy(task.fallback.text, self._offers, f"use one of {_some(self._offers)}")
            )
        known_device = self._check_device(task, faults)
        if task.do is None:
            return
        offers = self._offers.get(task.do.text)
        if offers is None:
            self._unknown_action(task, task.do, faults)
            return
        if known_device and task.device is not None:
            offers = [offer for offer in offers if offer[0].name == task.device.text]
            if not offers:
                can = _some(spec.name for spec, _ in self._offers[task.do.text])
                what = f"the device '{task.device.text}' cannot do '{task.do.text}'"
                faults.add(task.device, what, f"use one that can ({can}) or remove 'device'")
                return
        if task.mode == Mode.NATIVE and not any(action.quantum for _, action in offers):
            what = f"no quantum device of this fleet can do '{task.do.text}', which mode native asks for"
            faults.add(task.mode_place or task.do, what, "use mode enhanced or classical, or add a quantum device")
        self._check_arguments(task, task.do, [action for _, action in offers], faults)

    def _check_device(self, task: _Task, faults: Faults) -> bool:
        if task.device is None or task.device.text in self._devices:
            return True
        what = f"there is no device '{task.device.text}' in this fleet"
        faults.add(task.device, what, remedy(task.device.text, self._devices, f"use one of {_some(self._devices)}"))
        return False

    def _unknown_action(self, task: _Task, do: Scalar, faults: Faults) -> None:
        """A known fallback takes over from an action this fleet lacks, but not from one that is only misspelt."""
        match = closest(do.text, self._offers)
        takes_over = task.fallback is not None and task.fallback.text in self._offers and task.mode != Mode.NATIVE
        if match or not takes_over:
            what = f"unknown action '{do.text}': no device of this fleet can do it"
            faults.add(do, what, f"did you mean '{match}'?" if match else f"use one of {_some(self._offers)}")

    def _check_arguments(self, task: _Task, do: Scalar, actions: list[ActionSpec], faults: Faults) -> None:
        """Devices may take different arguments for one action: what any of them takes is allowed, what all of them
        require must be there. An action that describes no arguments is not checked."""
        if not any(action.parameters for action in actions):
            return
        known = dict.fromkeys(name for action in actions for name in action.parameters)
        given = task.arguments.entries if task.arguments is not None else {}
        for name, (key, _) in given.items():
            if name not in known:
                what = f"'{do.text}' takes no argument '{name}'"
                faults.add(key, what, remedy(name, known, f"it takes {_some(known)}"))
        required = set.intersection(*(set(action.required) for action in actions))
        for name in sorted(required - given.keys()):
            meaning = next((action.parameters[name] for action in actions if name in action.parameters), "")
            what = f"task '{task.name}' lacks the argument '{name}' of '{do.text}'"
            faults.add(do, what, f"add it under 'with:'{f' ({meaning})' if meaning else ''}")


def _some(names: Iterable[str]) -> str:
    """A few names for a message."""
    listed = list(dict.fromkeys(names))
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "") if listed else "(none)"
