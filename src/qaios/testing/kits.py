"""Conformance kits for the other contracts: journals, artifact stores, clocks and policies.

They are used as `testing.device_kit` is: inherit, write `make`, give the probes or say why there are none.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Any

from qaios.contracts import Artifacts, Berth, Clock, Journal, Placements, Policy, Ready
from qaios.core.errors import JournalBroken, NotFound
from qaios.core.events import DeadlineMissed, Event, encode_events, ids_of
from qaios.core.values import ActionSpec, DeviceSpec, Estimate, Shape
from qaios.testing.clock import FakeClock
from qaios.testing.promise import Kit, probe, promise


class JournalKit(Kit):
    """The promises of `contracts.Journal`. Everything lies under `self.home`."""

    def make(self) -> Journal:
        """Open the journal of this test; again after it was closed, the same one."""
        raise NotImplementedError

    @probe
    def damage(self) -> None:
        """Change one of the durable blocks of the closed journal."""
        raise NotImplementedError

    @promise()
    async def test_what_was_appended_is_read_in_order(self) -> None:
        journal = self.make()
        numbers = [await journal.append([_event(2 * n), _event(2 * n + 1)]) for n in range(5)]
        assert numbers == sorted(numbers) and numbers[0] >= 1, "blocks count up from 1"
        assert _read(journal) == [_event_bytes(n) for n in range(10)], "what is read is not what was appended"
        assert _read(journal) == _read(journal), "reading twice gives two answers"
        journal.close()

    @promise()
    async def test_an_empty_journal_reads_as_nothing(self) -> None:
        journal = self.make()
        assert _read(journal) == []
        journal.close()

    @promise()
    async def test_reading_can_begin_after_any_block(self) -> None:
        journal = self.make()
        for n in range(5):
            await journal.append([_event(n)])
        everything = list(journal.read())
        for position, (number, _) in enumerate(everything, 1):
            after = [each for each, _ in journal.read(after=number)]
            assert after == [each for each, _ in everything[position:]], f"after block {number}"
        journal.close()

    @promise()
    async def test_what_is_durable_survives_and_the_numbers_go_on(self) -> None:
        journal = self.make()
        last = [await journal.append([_event(n)]) for n in range(3)][-1]
        journal.close()
        journal = self.make()
        assert _read(journal) == [_event_bytes(n) for n in range(3)], "closing and opening lost something"
        assert await journal.append([_event(3)]) > last, "the numbers began anew"
        journal.close()

    @promise()
    async def test_appends_made_together_keep_the_order_of_the_calls(self) -> None:
        journal = self.make()
        await asyncio.gather(*(journal.append([_event(n)]) for n in range(50)))
        assert _read(journal) == [_event_bytes(n) for n in range(50)], "the order of the calls was lost"
        journal.close()

    @promise()
    async def test_a_closed_journal_takes_nothing_and_closes_twice(self) -> None:
        journal = self.make()
        journal.close()
        journal.close()
        try:
            await journal.append([_event(1)])
        except JournalBroken:
            return
        raise AssertionError("a closed journal took an event")

    @promise("damage")
    async def test_a_changed_block_is_never_read_as_a_fact(self) -> None:
        journal = self.make()
        for n in range(3):
            await journal.append([_event(n)])
        journal.close()
        self.damage()
        try:
            journal = self.make()
            try:
                _read(journal)
            finally:
                journal.close()
        except JournalBroken:
            return
        raise AssertionError("a changed block was read as if nothing had happened")


class ArtifactsKit(Kit):
    """The promises of `contracts.Artifacts`."""

    def make(self) -> Artifacts:
        raise NotImplementedError

    @probe
    def damage(self, store: Artifacts, sha256: str) -> None:
        """Change the stored content behind the store's back."""
        raise NotImplementedError

    @promise()
    async def test_what_is_put_is_got_by_its_address(self) -> None:
        store = self.make()
        for content in (b"", b"text", bytes(range(256)) * 4096):
            artifact = store.put("report", content, "text/plain")
            assert store.get(artifact.sha256) == content
            assert (artifact.name, artifact.media_type) == ("report", "text/plain")
            assert artifact.size_bytes == len(content)

    @promise()
    async def test_the_same_content_is_the_same_address_whatever_its_name(self) -> None:
        store = self.make()
        first, second = store.put("a", b"x", "text/plain"), store.put("b", b"x", "text/csv")
        assert first.sha256 == second.sha256
        assert first.name == "a" and second.name == "b", "the name is that of the call"

    @promise()
    async def test_what_is_not_there_is_not_found(self) -> None:
        store = self.make()
        for address in ("0" * 64, "", "../../etc/passwd"):
            try:
                store.get(address)
            except NotFound:
                continue
            raise AssertionError(f"{address!r} was found")

    @promise()
    async def test_threads_may_put_at_the_same_time(self) -> None:
        store = self.make()
        contents = [bytes([n % 7]) * 1000 for n in range(40)]
        with ThreadPoolExecutor(8) as threads:
            artifacts = list(threads.map(lambda content: store.put("x", content, "text/plain"), contents))
        for content, artifact in zip(contents, artifacts, strict=True):
            assert store.get(artifact.sha256) == content

    @promise("damage")
    async def test_changed_content_is_never_given_out(self) -> None:
        store = self.make()
        artifact = store.put("report", b"the truth", "text/plain")
        self.damage(store, artifact.sha256)
        try:
            store.get(artifact.sha256)
        except JournalBroken:
            return
        raise AssertionError("changed content was given out")


class ClockKit(Kit):
    """The promises of `contracts.Clock`."""

    def make(self) -> Clock:
        raise NotImplementedError

    async def carry(self, clock: Clock, awaitable: Awaitable[Any]) -> Any:
        return await self.within(clock.carry(awaitable) if isinstance(clock, FakeClock) else awaitable, "sleeping")

    @promise()
    async def test_it_never_goes_backwards(self) -> None:
        clock = self.make()
        times_s = []
        for _ in range(20):
            times_s.append(clock.now_s())
            await self.carry(clock, clock.sleep(0.001))
        assert times_s == sorted(times_s)
        assert all(math.isfinite(time_s) for time_s in times_s)

    @promise()
    async def test_a_sleep_lasts_at_least_as_long_as_asked_on_the_same_clock(self) -> None:
        clock = self.make()
        before_s = clock.now_s()
        await self.carry(clock, clock.sleep(0.05))
        assert clock.now_s() - before_s >= 0.05 - 1e-6

    @promise()
    async def test_a_sleep_of_nothing_or_less_returns(self) -> None:
        clock = self.make()
        for duration_s in (0.0, -1.0):
            await self.carry(clock, clock.sleep(duration_s))

    @promise()
    async def test_sleepers_sleep_side_by_side_and_wake_in_order(self) -> None:
        clock = self.make()
        woken: list[float] = []

        async def sleeper(duration_s: float) -> None:
            await clock.sleep(duration_s)
            woken.append(duration_s)

        await self.carry(clock, asyncio.gather(*(sleeper(duration_s) for duration_s in (0.3, 0.1, 0.2))))
        assert woken == [0.1, 0.2, 0.3]

    @promise()
    async def test_a_sleeper_can_be_cancelled(self) -> None:
        clock = self.make()
        nap = asyncio.ensure_future(clock.sleep(3600.0))
        await asyncio.sleep(0)
        nap.cancel()
        done, _ = await asyncio.wait((nap,), timeout=self.patience_s)
        assert done and nap.cancelled()


@dataclass(frozen=True, slots=True)
class Situation:
    """What a policy is asked: drawn at random, the same for the same seed."""

    ready: Ready
    fleet: Sequence[Berth]
    table: Mapping[tuple[str, int], Estimate]
    now_s: float = 1000.0

    def ask(self, policy: Policy) -> Placements:
        return policy.place(self.ready, self.fleet, lambda device, shape: self.table[device, shape], self.now_s)

    def can(self, task: int, berth: Berth) -> bool:
        """Whether this device could ever take this task, free or not."""
        shape = self.ready.shapes[list(self.ready.ids).index(task)]
        name = berth.spec.name
        return (
            berth.spec.action(self.ready.shape_table[shape].action) is not None
            and not self.table[name, shape].refusal
            and name not in self.ready.excluded.get(task, frozenset())
            and self.ready.pinned.get(task, name) == name
            and not berth.unusable
        )


class PolicyKit(Kit):
    """The promises of `contracts.Policy`, on drawn situations."""

    situations = 60

    def make(self) -> Policy:
        raise NotImplementedError

    def drawn(self) -> list[Situation]:
        return [draw_situation(Random(seed)) for seed in range(self.situations)]

    @promise()
    async def test_the_same_question_gives_the_same_answer_and_changes_nothing(self) -> None:
        for situation in self.drawn():
            before = copy.deepcopy((situation.ready, situation.fleet))
            first, second = situation.ask(self.make()), situation.ask(policy := self.make())
            assert first == second == situation.ask(policy), "the policy remembers or draws lots"
            assert before == (situation.ready, situation.fleet), "the policy changed what it was asked about"

    @promise()
    async def test_every_ready_task_gets_exactly_one_answer(self) -> None:
        for situation in self.drawn():
            answer = situation.ask(self.make())
            answered = [one.task for one in answer.placed] + list(answer.waiting) + list(answer.impossible)
            assert sorted(answered) == sorted(situation.ready.ids), "a task was forgotten or answered twice"

    @promise()
    async def test_a_task_only_goes_where_it_can_be_done(self) -> None:
        for situation in self.drawn():
            berths = {berth.spec.name: berth for berth in situation.fleet}
            for one in situation.ask(self.make()).placed:
                assert situation.can(one.task, berths[one.device]), f"task {one.task} went to {one.device}"

    @promise()
    async def test_no_device_gets_more_than_it_can_take(self) -> None:
        for situation in self.drawn():
            placed = situation.ask(self.make()).placed
            shapes = dict(zip(situation.ready.ids, situation.ready.shapes, strict=True))
            for berth in situation.fleet:
                taken = [shapes[one.task] for one in placed if one.device == berth.spec.name]
                assert _attempts(berth, taken, situation.ready.shape_table) <= berth.free, berth.spec.name

    @promise()
    async def test_a_task_is_called_impossible_only_where_no_device_can(self) -> None:
        for situation in self.drawn():
            for task in situation.ask(self.make()).impossible:
                assert not any(situation.can(task, berth) for berth in situation.fleet), f"task {task}"

    @promise()
    async def test_every_answer_has_its_reason(self) -> None:
        policy = self.make()
        for situation in self.drawn():
            answer = situation.ask(policy)
            for one in answer.placed:
                decision = answer.decisions[one.decision]
                assert one.device in [candidate.device for candidate in decision.candidates], "chosen, not considered"
                assert decision.policy == policy.name
            for task, index in {**answer.waiting, **answer.impossible}.items():
                assert 0 <= index < len(answer.decisions), f"task {task} has no reason"

    @promise()
    async def test_the_most_urgent_goes_first_then_the_nearest_deadline_then_the_first_come(self) -> None:
        for seed in range(20):
            situation = _queue(Random(seed))
            (placed,) = situation.ask(self.make()).placed
            ready = situation.ready
            rows = zip(ready.priorities, ready.deadlines_s, ready.ids, strict=True)
            assert placed.task == min(rows)[2]

    @promise()
    async def test_who_waits_long_enough_goes_first(self) -> None:
        ready = Ready((1, 2), (0, 0), (1, 1000), (math.inf, math.inf), (1e9, 0.0), {}, {}, (Shape("act", {}),))
        (placed,) = Situation(ready, _one_device(), {("d", 0): Estimate(1.0)}, now_s=1e9).ask(self.make()).placed
        assert placed.task == 2, "a patient task starves"


def draw_situation(random: Random) -> Situation:
    """Up to 40 tasks of 5 shapes on up to 5 devices; some refused, excluded, pinned, some devices unusable."""
    actions = [ActionSpec("a", "."), ActionSpec("b", "."), ActionSpec("c", ".", batched=True)]
    shapes = tuple(Shape(random.choice(actions).name, {"n": n}) for n in range(5))
    fleet = []
    for number in range(random.randint(1, 5)):
        offered = tuple(random.sample(actions, random.randint(1, 3)))
        spec = DeviceSpec(f"d{number}", "driver", "kind", offered, capacity=3)
        lost = random.random() < 0.15
        fleet.append(Berth(spec, 0 if lost else random.randint(0, 3), 1, unusable="is lost" if lost else ""))
    table = {
        (berth.spec.name, shape): Estimate(
            random.choice([0.01, 1.0, 30.0]),
            fidelity=random.random(),
            refusal="too wide" if random.random() < 0.2 else "",
        )
        for berth in fleet
        for shape in range(5)
    }
    count = random.randint(0, 40)
    ids = random.sample(range(1000), count)
    names = [berth.spec.name for berth in fleet]
    ready = Ready(
        ids=ids,
        shapes=[random.randrange(5) for _ in ids],
        priorities=[random.choice([1, 50, 100]) for _ in ids],
        deadlines_s=[random.choice([math.inf, random.uniform(1000.0, 2000.0)]) for _ in ids],
        ready_s=[random.uniform(0.0, 1000.0) for _ in ids],
        excluded={task: frozenset(random.sample(names, 1)) for task in ids if random.random() < 0.1},
        pinned={task: random.choice(names) for task in ids if random.random() < 0.1},
        shape_table=shapes,
    )
    return Situation(ready, fleet, table)


def _queue(random: Random) -> Situation:
    """Tasks of one shape that became ready together, for one place."""
    ids = random.sample(range(100), 12)
    ready = Ready(
        ids=ids,
        shapes=[0] * 12,
        priorities=[random.choice([1, 2, 3]) for _ in ids],
        deadlines_s=[random.choice([math.inf, 2000.0, 1500.0]) for _ in ids],
        ready_s=[1000.0] * 12,
        excluded={},
        pinned={},
        shape_table=(Shape("act", {}),),
    )
    return Situation(ready, _one_device(), {("d", 0): Estimate(1.0)})


def _one_device() -> Sequence[Berth]:
    return [Berth(DeviceSpec("d", "driver", "kind", (ActionSpec("act", "."),)), 1, 1)]


def _attempts(berth: Berth, shapes: Sequence[int], table: Sequence[Shape]) -> int:
    """How many attempts these tasks are at least: those of a batched action may share one, by shape."""
    single, batched = 0, set()
    for shape in shapes:
        action = berth.spec.action(table[shape].action)
        if action is not None and action.batched:
            batched.add(shape)
        else:
            single += 1
    return single + len(batched)


def _event(number: int) -> Event:
    return DeadlineMissed(at_s=float(number), ids=ids_of(number))


def _event_bytes(number: int) -> bytes:
    return encode_events([_event(number)])


def _read(journal: Journal) -> list[bytes]:
    return [encode_events([event]) for _, events in journal.read() for event in events]
