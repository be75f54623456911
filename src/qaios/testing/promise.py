"""How a kit is built from promises: test methods that need no plugin and never hang.

A promise is an async method of a kit. `promise` makes it an ordinary test: it gets an event loop and a folder of
its own, and every wait inside it is bounded, so that a device that never answers fails the test that asked and
leaves the next one alone. A promise may need a *probe*, a method that only the author can write (a task that runs
long, a count of real effects); where the author overrides it the promise is tested, and where not, the author says
why in `lacks`. What is neither shown nor excused fails.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")
Promise = Callable[[Any], Coroutine[Any, Any, None]]


def promise(*probes: str) -> Callable[[Promise], Callable[[Any], None]]:
    """Make an async method a test. It is collected only where all these probes are given."""

    def make(body: Promise) -> Callable[[Any], None]:
        @functools.wraps(body)
        def test(self: Kit) -> None:
            self.run(body)

        # pytest reads signatures through `__wrapped__`, and would take the test for a coroutine.
        del test.__wrapped__
        test.probes = probes  # type: ignore[attr-defined]
        return test

    return make


def probe(method: Callable[..., T]) -> Callable[..., T]:
    """Mark a method that only the author can write."""
    method.is_probe = True  # type: ignore[attr-defined]
    return method


class Kit:
    """Root of all kits."""

    lacks: ClassVar[Mapping[str, str]] = {}  # probe -> why there is none
    patience_s: ClassVar[float] = 30.0  # how long anything may take before it counts as never

    home: Path  # a folder of the test's own

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, member in inspect.getmembers(cls):
            missing = [probe for probe in getattr(member, "probes", ()) if not cls._gives(probe)]
            if missing and name not in vars(cls):  # the kit itself keeps what its subclasses may lack
                setattr(cls, name, None)  # pytest collects what is callable

    @classmethod
    def _gives(cls, name: str) -> bool:
        return not getattr(getattr(cls, name), "is_probe", False)

    def test_every_probe_is_given_or_its_lack_is_explained(self) -> None:
        probes = [name for name, member in inspect.getmembers(type(self)) if getattr(member, "is_probe", False)]
        silent = [name for name in probes if not self.lacks.get(name)]
        assert not silent, f"give {', '.join(silent)}, or say in `lacks` why there is none"
        idle = [name for name in self.lacks if name not in probes]
        assert not idle, f"`lacks` names {', '.join(idle)}, which is given or does not exist"

    def run(self, body: Promise) -> None:
        """Run one promise in a loop and a folder of its own."""
        with tempfile.TemporaryDirectory(prefix="qaios-kit-", ignore_cleanup_errors=True) as folder:
            self.home = Path(folder)
            loop = asyncio.new_event_loop()
            try:
                loop.run_until_complete(body(self))
            finally:
                self._close(loop)

    def _close(self, loop: asyncio.AbstractEventLoop) -> None:
        """A broken device may leave tasks that will not end; they are asked once and then left."""
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=min(1.0, self.patience_s)))
        for task in left:
            if task.done() and not task.cancelled():
                task.exception()  # read, so that it is not reported a second time
            else:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    async def within(self, awaitable: Awaitable[T], what: str) -> T:
        """Its result; an assertion that says `what` never ended when it takes longer than `patience_s`.

        Unlike a timeout this does not cancel what it waits for: a device that ignores cancellation must not hang
        the test that finds it out.
        """
        task = asyncio.ensure_future(awaitable)
        done, _ = await asyncio.wait((task,), timeout=self.patience_s)
        assert done, f"{what} did not end within {self.patience_s} s"
        return await task
