"""A home with a fake node listening in it, and the command line run against it in this process."""

from __future__ import annotations

import contextlib
import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from qaios.cli.main import run
from qaios.client.sync import Portal
from tests.client.fake_node import FakeNode
from tests.web.serving import served


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command line printed and how it ended."""

    out: str
    err: str
    code: int


class Captured(io.TextIOWrapper):
    """A stream that is no terminal and keeps bytes and text alike."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def text(self) -> str:
        self.flush()
        raw = self.buffer
        assert isinstance(raw, io.BytesIO)
        return raw.getvalue().decode()


def qai(*arguments: str) -> Outcome:
    """Run a command line here; SystemExit is its exit code as it would be in a shell."""
    out, err = Captured(), Captured()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run(list(arguments))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return Outcome(out.text(), err.text(), code)


@contextmanager
def node_in(home: Path, monkeypatch: pytest.MonkeyPatch, *, outcome: str = "done") -> Iterator[FakeNode]:
    """A fake node serving this home from a loop in another thread."""
    monkeypatch.setenv("QAIOS_HOME", str(home))
    portal = Portal()
    up, end = threading.Event(), threading.Event()
    node = portal.run(_made(outcome))

    async def serve() -> None:
        import asyncio

        async with served(node, home):
            up.set()
            await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=lambda: portal.run(serve()))
    thread.start()
    try:
        assert up.wait(30)
        yield node
    finally:
        end.set()
        thread.join(30)
        portal.close()


async def _made(outcome: str) -> FakeNode:
    return FakeNode(outcome=outcome)


def steady(text: str, home: Path, *folders: Path) -> str:
    """The text without what differs from run to run: folders, ports and milliseconds."""
    for folder, word in ((home, "HOME"), *((folder, "FOLDER") for folder in folders)):
        text = text.replace(str(folder), word)
    return re.sub(r"\bin \d+ ms", "in N ms", re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text))
