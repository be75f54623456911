"""Missions written in Python, for scripts and notebooks: the same documents as mission files, built by calling.

    from qaios import Mission, task

    @task(priority=1)
    def root(x): ...                     # a function of an importable module

    with Mission("roots", deadline="1 min") as mission:
        first = root(2)                  # not called now: a task, and a promise of its result
        mission.add("send", "hub.upload", needs=[first], content=first["value"])
    results = mission.run()              # in a notebook: results = await mission.run()

A promise given to another task becomes a reference to its result and a need. Nothing but the standard library is
imported here at first, because a worker that runs such a function imports its module, and with it this one.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from concurrent.futures import Future
from contextvars import ContextVar, Token
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, overload

from qaios.core.errors import Invalid, MissionInvalid

if TYPE_CHECKING:
    from qaios.client.node import Node
    from qaios.schema.mission import MissionDocument
    from qaios.schema.views import EventView, MissionReport, TaskView


open_mission: ContextVar[Mission | None] = ContextVar("open_mission", default=None)


class Promise:
    """The result a task will have. `promise["key"]` is a part of it, `promise.each` a list over what it spawns."""

    def __init__(self, task_name: str, path: tuple[str, ...] = ()) -> None:
        self.task_name = task_name
        self.path = path

    def __getitem__(self, key: str | int) -> Promise:
        return Promise(self.task_name, (*self.path, str(key)))

    @property
    def each(self) -> Promise:
        if self.path:
            raise Invalid("'each' comes first", hint=f"write {self.task_name}.each[…]")
        return Promise(self.task_name, ("*",))

    def __str__(self) -> str:
        return "${" + ".".join((self.task_name, *self.path)) + "}"

    def __repr__(self) -> str:
        return f"<promise {self}>"

    def __bool__(self) -> bool:
        raise Invalid(
            f"the result of '{self.task_name}' is not known yet", hint="decide inside a task, or after the mission ran"
        )

    def __iter__(self) -> Any:
        raise Invalid(
            f"the result of '{self.task_name}' is not known yet", hint=f"take parts of it: {self.task_name}[0]"
        )


class Mission:
    """A mission being written. Used with `with`, calls of `@task` functions add to it."""

    def __init__(
        self,
        name: str,
        *,
        goal: str = "",
        deadline: str | None = None,
        seed: int | None = None,
        profile: str = "",
        **defaults: Any,
    ) -> None:
        """`deadline` is a duration such as '20 min'; `defaults` are those of a mission file (priority, retries, …)."""
        self.name = name
        self._head = {"goal": goal, "deadline": deadline, "seed": seed, "profile": profile}
        self._defaults = defaults
        self._tasks: dict[str, dict[str, Any]] = {}
        self._tokens: list[Token[Mission | None]] = []
        self.results: Results | None = None

    @classmethod
    def read(cls, path: str | Path) -> Mission:
        """A mission from its file. Raises `MissionInvalid` with every fault of the file."""
        from qaios.bridge.missions import load_mission

        data = load_mission(Path(path)).model_dump(mode="json", by_alias=True, exclude_none=True)
        mission = cls(
            data["mission"], **{key: data[key] for key in ("goal", "deadline", "seed", "profile") if key in data}
        )
        mission._defaults = data.get("defaults", {})
        mission._tasks = dict(data["tasks"])
        return mission

    def __enter__(self) -> Self:
        self._tokens.append(open_mission.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        open_mission.reset(self._tokens.pop())

    def add(
        self,
        name: str,
        do: str,
        with_: Mapping[str, Any] | None = None,
        *,
        needs: Iterable[str | Promise] = (),
        priority: int | None = None,
        mode: str | None = None,
        fallback: str | None = None,
        deadline: str | None = None,
        device: str | None = None,
        retries: int | None = None,
        **arguments: Any,
    ) -> Promise:
        """Add a task; its arguments are `with_` and the other keywords. Promises among them become needs."""
        if name in self._tasks:
            raise Invalid(f"mission '{self.name}' has a task '{name}' already", hint="give this one another name")
        found: list[str] = [str(need.task_name if isinstance(need, Promise) else need) for need in needs]
        given = _referring({**(with_ or {}), **arguments}, found)
        fields = {
            "priority": priority,
            "mode": mode,
            "fallback": fallback,
            "deadline": deadline,
            "device": device,
            "retries": retries,
        }
        self._tasks[name] = {
            "do": do,
            "needs": list(dict.fromkeys(found)),
            **{key: value for key, value in fields.items() if value is not None},
            "with": given,
        }
        return Promise(name)

    def free_name(self, wish: str) -> str:
        """The name itself, or with the first number that makes it new."""
        if wish not in self._tasks:
            return wish
        return next(name for number in range(2, sys.maxsize) if (name := f"{wish}-{number}") not in self._tasks)

    def document(self) -> MissionDocument:
        """The mission as a document. Raises `MissionInvalid` with everything that is wrong with it."""
        from pydantic import ValidationError

        from qaios.bridge.missions import check_document
        from qaios.core.errors import Fault
        from qaios.schema.mission import MissionDocument

        head = {key: value for key, value in self._head.items() if value not in (None, "")}
        data = {"mission": self.name, **head, "defaults": self._defaults, "tasks": self._tasks}
        where = f"mission '{self.name}'"
        try:
            document = MissionDocument.model_validate(data)
        except ValidationError as error:
            raise MissionInvalid(
                tuple(
                    Fault(where, 1, 1, f"'{'.'.join(map(str, one['loc']))}': {one['msg']}", "change it")
                    for one in error.errors(include_url=False)
                )
            ) from None
        faults = check_document(document, None)
        if faults:
            raise MissionInvalid(faults)
        return document

    def to_yaml(self) -> str:
        """The mission as the text of a mission file."""
        import yaml

        data = self.document().model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude_none=True)
        return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100))

    @overload
    def run(self, node: Node, *, seed: int | None = None, on_event: OnEvent | None = None) -> Awaitable[Results]: ...

    @overload
    def run(
        self,
        node: None = None,
        *,
        seed: int | None = None,
        on_event: OnEvent | None = None,
        home: Path | None = None,
        profile: str | None = None,
    ) -> Any: ...

    def run(
        self,
        node: Node | None = None,
        *,
        seed: int | None = None,
        on_event: OnEvent | None = None,
        home: Path | None = None,
        profile: str | None = None,
    ) -> Any:
        """Run it to its end.

        In a script: blocks and returns `Results`. Where an event loop runs (a notebook, an async program): returns
        something to `await`, or to `wait()` for. With a `node` (a `System` or `Client` of this loop) it runs there;
        otherwise on the running node of `home`, or on one booted for it.
        """
        document = self.document()
        if node is not None:
            return self._fly(node, document, seed, on_event)
        work = self._find_and_fly(document, seed, on_event, home, profile)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(work)
        return Flight(work)

    async def _fly(self, node: Node, document: MissionDocument, seed: int | None, on_event: OnEvent | None) -> Results:
        mission = await node.submit(document, seed=seed)
        async for event in node.watch(mission):
            if on_event is not None:
                on_event(event)
        self.results = Results(await node.report(mission))
        return self.results

    async def _find_and_fly(
        self,
        document: MissionDocument,
        seed: int | None,
        on_event: OnEvent | None,
        home: Path | None,
        profile: str | None,
    ) -> Results:
        from qaios.client.local import boot, fleet_for
        from qaios.client.run_files import home_folder, read_node_file

        if read_node_file(home if home is not None else home_folder()) is not None:
            from qaios.client.http import Client

            async with Client.connect(home) as client:
                return await self._fly(client, document, seed, on_event)
        actions = {task.do for task in document.tasks.values()}
        chosen, _ = fleet_for(actions, profile=profile or document.profile, home=home)
        world_seed = seed if seed is not None else document.seed
        async with boot(home=home, profile=chosen, seed=world_seed) as system:
            return await self._fly(system, document, seed, on_event)

    def __repr__(self) -> str:
        return f"<mission '{self.name}', {len(self._tasks)} tasks>"

    def _repr_html_(self) -> str:
        if self.results is not None:
            return self.results._repr_html_()
        from qaios.client.pictures import graph_svg

        return graph_svg(self.name, {name: task["needs"] for name, task in self._tasks.items()})


OnEvent = Callable[["EventView"], None]


class Results(Mapping[str, Any]):
    """What a mission brought: `results["task"]` is that task's value, `results.report` the whole report."""

    def __init__(self, report: MissionReport) -> None:
        self.report = report
        self._tasks: dict[str, TaskView] = {task.name: task for task in report.tasks}

    @property
    def state(self) -> str:
        return self.report.state

    @property
    def metrics(self) -> Mapping[str, Any]:
        return self.report.metrics

    def __getitem__(self, task: str | Promise) -> Any:
        """The task's value. Raises `Invalid` when it did not finish, with its reason."""
        name = task.task_name if isinstance(task, Promise) else task
        view = self._tasks[name]
        if view.state != "done":
            reason = f": {view.error.message}" if view.error is not None else ""
            raise Invalid(f"task '{name}' has no result, it is {view.state}{reason}", hint="see results.report")
        value = view.result
        for step in task.path if isinstance(task, Promise) else ():
            value = value[int(step)] if isinstance(value, list) else value[step]
        return value

    def __iter__(self) -> Any:
        return (name for name, task in self._tasks.items() if task.state == "done")

    def __len__(self) -> int:
        return sum(task.state == "done" for task in self._tasks.values())

    def __repr__(self) -> str:
        return (
            f"<results of '{self.report.mission}': {self.report.state}, {len(self)} of {len(self._tasks)} tasks done>"
        )

    def _repr_html_(self) -> str:
        from qaios.client.pictures import timeline_svg

        return timeline_svg(self.report)


class Flight:
    """A mission under way in a loop of its own, so that it neither needs nor blocks the one that asked."""

    def __init__(self, work: Any) -> None:
        from qaios.client.sync import Portal

        self._portal = Portal()
        self._future: Future[Results] = self._portal.start(work)
        self._future.add_done_callback(lambda _: self._portal.retire())

    def wait(self) -> Results:
        """Block until it has ended."""
        return self._future.result()

    @property
    def done(self) -> bool:
        return self._future.done()

    def __await__(self) -> Generator[Any, None, Results]:
        return asyncio.wrap_future(self._future).__await__()


def _referring(value: Any, needs: list[str]) -> Any:
    """The value with references in place of promises, whose tasks are added to `needs`."""
    if isinstance(value, Promise):
        needs.append(value.task_name)
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _referring(item, needs) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_referring(item, needs) for item in value]
    return value
