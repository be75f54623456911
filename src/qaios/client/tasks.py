"""`@task`: Python functions as tasks of a mission, called by writing their call.

What is checked here is that another process can import the function, because a worker will.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, overload

from qaios.client.notebook import open_mission
from qaios.core.errors import Invalid

P = ParamSpec("P")
R = TypeVar("R")


class TaskFunction(Generic[P, R]):
    """A function that is a task inside `with Mission(…)`, and itself everywhere else."""

    def __init__(self, function: Callable[P, R], call: str, folder: str | None, fields: dict[str, Any]) -> None:
        self.__wrapped__ = function
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.call = call
        self._folder = folder
        self._fields = fields

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        mission = open_mission.get()
        if mission is None:
            return self.__wrapped__(*args, **kwargs)
        try:
            inspect.signature(self.__wrapped__).bind(*args, **kwargs)
        except TypeError as error:
            raise Invalid(f"{self.call}: {error}", hint="call it as it is defined") from None
        given: dict[str, Any] = {"call": self.call, "args": list(args), "kwargs": kwargs}
        if self._folder is not None:
            given["path"] = [self._folder]
        name = mission.free_name(self.__name__)
        return mission.add(name, "compute.call", given, **self._fields)  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"<task {self.call}>"


@overload
def task(function: Callable[P, R], /) -> TaskFunction[P, R]: ...


@overload
def task(
    *,
    priority: int | None = None,
    deadline: str | None = None,
    retries: int | None = None,
    device: str | None = None,
) -> Callable[[Callable[P, R]], TaskFunction[P, R]]: ...


def task(function: Any = None, /, **fields: Any) -> Any:
    """Make a function a task when it is called inside `with Mission(…)`.

    It runs in another process, which imports it: a lambda, a function inside a function, or one typed into a notebook
    cell is refused with `Invalid`.
    """
    if function is None:
        return lambda inner: task(inner, **fields)
    call, folder = _import_path(function)
    return TaskFunction(function, call, folder, fields)


def _import_path(function: Any) -> tuple[str, str | None]:
    """`module:function`, and the folder to look for the module in where it is not an installed one."""
    if not inspect.isfunction(function):
        raise Invalid(f"{function!r} is not a function", hint="decorate a function defined with 'def'")
    if "<" in function.__qualname__ or "." in function.__qualname__:
        raise Invalid(
            f"'{function.__qualname__}' cannot be imported by the process that would run it",
            hint="define it with 'def' at the top level of a module",
        )
    module = sys.modules.get(function.__module__)
    file = getattr(module, "__file__", None)
    if function.__module__ != "__main__":
        return f"{function.__module__}:{function.__name__}", _folder_of(function.__module__, file)
    if file is None:
        raise Invalid(
            f"'{function.__name__}' is defined in a notebook cell or at the prompt: no other process can import it",
            hint="put it into a file (%%writefile my_tasks.py) and import it from there",
        )
    path = Path(file).resolve()
    if not path.stem.isidentifier() or "__name__" not in path.read_text(encoding="utf-8", errors="replace"):
        raise Invalid(
            f"another process cannot import {path.name} without running it",
            hint="run the mission under: if __name__ == '__main__':",
        )
    return f"{path.stem}:{function.__name__}", str(path.parent)


def _folder_of(module: str, file: str | None) -> str | None:
    """Where the module's top package lies; None for what every process of this installation finds by itself."""
    if file is None or module.partition(".")[0] in sys.stdlib_module_names:
        return None
    path = Path(file).resolve()
    depth = module.count(".") + (path.stem == "__init__")
    folder = path.parents[depth]
    return None if folder.name in ("site-packages", "dist-packages") else str(folder)
