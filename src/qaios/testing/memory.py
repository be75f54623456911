"""A journal and an artifact store that live in memory, and one attempt that remembers what it was told.

They keep every promise of their contracts except durability, and can be told to fail: a journal that breaks at the
nth append, an artifact whose content rots. `MemoryJournal.blocks` can be handed to a new journal, which is what a
crash and a restart look like to the kernel.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from qaios.contracts import Artifacts, Clock
from qaios.core.errors import JournalBroken, NotFound
from qaios.core.events import Event, decode_events, encode_events
from qaios.core.values import Artifact
from qaios.testing.clock import FakeClock


class MemoryJournal:
    """Implements `Journal`. Blocks are encoded and chained by hash, as a real journal's are."""

    def __init__(self, blocks: Sequence[tuple[bytes, bytes]] = ()) -> None:
        self.blocks: list[tuple[bytes, bytes]] = list(blocks)  # content, hash of the chain up to here
        self.break_at: int | None = None  # the sequence number whose append fails
        self.closed = False
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def events(self) -> list[Event]:
        """All that is durable."""
        return [event for _, events in self.read() for event in events]

    def stall(self) -> None:
        """From now on nothing becomes durable, and `append` waits."""
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def tamper(self, sequence: int) -> None:
        """Change one block behind the journal's back."""
        content, digest = self.blocks[sequence - 1]
        self.blocks[sequence - 1] = (content[:-1] + bytes([content[-1] ^ 1]), digest)

    async def append(self, events: Sequence[Event]) -> int:
        content = encode_events(events)
        await self._flowing.wait()
        if self.closed:
            raise JournalBroken("the journal is closed")
        if self.break_at is not None and len(self.blocks) + 1 >= self.break_at:
            raise JournalBroken("the journal cannot be written (a test asked for this)")
        self.blocks.append((content, self._chained(content, self._last_hash())))
        return len(self.blocks)

    def read(self, after: int = 0) -> Iterator[tuple[int, Sequence[Event]]]:
        before = self.blocks[after - 1][1] if after else b""
        for sequence, (content, digest) in enumerate(self.blocks[after:], after + 1):
            if self._chained(content, before) != digest:
                raise JournalBroken(f"block {sequence} does not follow from block {sequence - 1}")
            yield sequence, decode_events(content)
            before = digest

    def close(self) -> None:
        self.closed = True

    def _last_hash(self) -> bytes:
        return self.blocks[-1][1] if self.blocks else b""

    @staticmethod
    def _chained(content: bytes, before: bytes) -> bytes:
        return hashlib.sha256(before + content).digest()


class MemoryArtifacts:
    """Implements `Artifacts`."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}

    def put(self, name: str, content: bytes, media_type: str) -> Artifact:
        sha256 = hashlib.sha256(content).hexdigest()
        self.contents[sha256] = bytes(content)
        return Artifact(name, sha256, len(content), media_type)

    def get(self, sha256: str) -> bytes:
        if sha256 not in self.contents:
            raise NotFound(f"there is no artifact {sha256}")
        content = self.contents[sha256]
        if hashlib.sha256(content).hexdigest() != sha256:
            raise JournalBroken(f"the content of artifact {sha256} has changed")
        return content

    def corrupt(self, sha256: str) -> None:
        self.contents[sha256] += b"rot"


class FakeAttempt:
    """Implements `Attempt`; what the device said is in `fractions`, `notes` and `chunks`."""

    def __init__(
        self,
        key: str = "node/mission/1",
        *,
        epoch: int = 1,
        clock: Clock | None = None,
        artifacts: Artifacts | None = None,
        seed: int = 0,
    ) -> None:
        self._key = key
        self._epoch = epoch
        self._clock: Clock = clock if clock is not None else FakeClock()
        self._artifacts: Artifacts = artifacts if artifacts is not None else MemoryArtifacts()
        self._random = Random(f"{seed} {key}")
        self.fractions: list[float] = []
        self.notes: list[str] = []
        self.chunks: list[dict[str, Any]] = []
        self.leaving = False
        self._said = asyncio.Event()

    @property
    def key(self) -> str:
        return self._key

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def random(self) -> Random:
        return self._random

    @property
    def artifacts(self) -> Artifacts:
        return self._artifacts

    def progress(self, fraction: float, note: str = "") -> None:
        self.fractions.append(fraction)
        self.notes.append(note)
        self._said.set()

    def emit(self, chunk: Mapping[str, Any]) -> None:
        self.chunks.append(dict(chunk))
        self._said.set()

    async def said(self) -> None:
        """Return once the device has said anything at all: proof that it has begun."""
        await self._said.wait()
