"""The bus: nobody can hold it, nobody can break it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from qaios.kernel.bus import LocalBus


def quiet() -> tuple[LocalBus, list[tuple[str, Exception]]]:
    errors: list[tuple[str, Exception]] = []
    return LocalBus(lambda topic, error: errors.append((topic, error))), errors


async def test_every_listener_gets_the_batch_itself() -> None:
    bus, _ = quiet()
    seen: list[Sequence[Any]] = []
    bus.listen("t", seen.append)
    bus.listen("t", seen.append)
    batch = [1, 2]
    bus.publish("t", batch)
    bus.publish("other", [3])
    assert len(seen) == 2
    assert all(one is batch for one in seen)


async def test_a_slow_reader_loses_the_oldest_batches_and_holds_nobody() -> None:
    bus, _ = quiet()
    async with bus.subscribe("t", batches_max=3) as batches:
        for number in range(10):
            bus.publish("t", [number])
        assert batches.dropped == 7
        assert [await anext(batches) for _ in range(3)] == [[7], [8], [9]]
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        assert not waiting.done()
        bus.publish("t", ["next"])
        assert await waiting == ["next"]
    bus.publish("t", ["after the end"])


async def test_a_callback_that_raises_is_dropped_and_reported_and_the_others_still_hear() -> None:
    bus, errors = quiet()
    seen: list[Sequence[Any]] = []

    def broken(_batch: Sequence[Any]) -> None:
        raise ValueError("no")

    bus.listen("t", broken)
    bus.listen("t", seen.append)
    bus.publish("t", [1])
    bus.publish("t", [2])
    assert seen == [[1], [2]]
    assert [(topic, str(error)) for topic, error in errors] == [("t", "no")]


async def test_a_callback_that_stops_itself_and_raises_does_no_harm() -> None:
    bus, errors = quiet()

    def leaving(_batch: Sequence[Any]) -> None:
        stop()
        raise ValueError("gone")

    stop = bus.listen("t", leaving)
    bus.publish("t", [1])
    assert len(errors) == 1


async def test_the_same_callback_twice_is_two_registrations() -> None:
    bus, _ = quiet()
    seen: list[Sequence[Any]] = []
    first, _second = bus.listen("t", seen.append), bus.listen("t", seen.append)
    first()
    first()
    bus.publish("t", [1])
    assert seen == [[1]]
