"""Broken devices, each breaking one promise in a way that drivers really do; and the test that must notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, ClassVar, Self

import msgspec

from qaios.contracts import Attempt
from qaios.core.errors import DeviceFault, QaiError, Refused
from qaios.core.values import (
    Batch,
    BatchOutcome,
    DeviceSpec,
    DeviceStatus,
    Done,
    Estimate,
    Never,
    Reading,
    Recall,
    Result,
    Running,
    Shape,
    Task,
)
from qaios.testing.scripted import ScriptedDevice, Step


class Mutant(ScriptedDevice):
    """Root of the broken devices. `caught_by` is the test of the kit that must fail."""

    caught_by: ClassVar[str] = ""


class IgnoresCancellation(Mutant):
    caught_by = "test_a_cancelled_attempt_stops_and_the_device_goes_on"

    async def _follow(self, step: Step, task: Task, attempt: Attempt) -> Result:
        work = asyncio.ensure_future(super()._follow(step, task, attempt))
        for _ in range(5):
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                continue
        return await work


class SaysStoppedWhileItRunsOn(Mutant):
    caught_by = "test_after_cancelling_nothing_of_it_runs_on"

    async def _act(self, task: Task, attempt: Attempt) -> Result:
        return await asyncio.shield(asyncio.ensure_future(super()._act(task, attempt)))


class FinishesInsteadOfStopping(Mutant):
    caught_by = "test_halt_stops_what_is_running"

    async def _follow(self, step: Step, task: Task, attempt: Attempt) -> Result:
        try:
            return await super()._follow(step, task, attempt)
        except asyncio.CancelledError:
            return Result("as if done")


class DoesTheSameKeyTwice(Mutant):
    caught_by = "test_the_same_key_twice_is_one_effect"

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        self._admit(task, attempt)
        attempt.progress(0.0)
        await self.clock.sleep(1.0)
        self.memory.effects.append(attempt.key)
        return Result("done")


class ForgetsItsResult(Mutant):
    caught_by = "test_the_same_key_twice_gives_the_same_result"

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        if isinstance(self.memory.outcomes.get(attempt.key), Done):
            return Result("already done")
        return await super().execute(task, attempt)


class BlocksTheLoopInExecute(Mutant):
    caught_by = "test_the_event_loop_never_stands_still"

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        if task.name == "quick" and not self.order:
            time.sleep(0.3)  # noqa: ASYNC251 - the fault that is planted
        return await super().execute(task, attempt)


class BlocksTheLoopInObserve(Mutant):
    caught_by = "test_the_event_loop_never_stands_still"

    async def observe(self) -> Sequence[Reading]:
        time.sleep(0.3)  # noqa: ASYNC251 - the fault that is planted
        return await super().observe()


class ReadsAndWorksUnderOneLock(Mutant):
    caught_by = "test_a_slow_reading_does_not_hold_up_the_work"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = asyncio.Lock()

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        async with self._lock:
            pass
        return await super().execute(task, attempt)

    async def observe(self) -> Sequence[Reading]:
        async with self._lock:
            return await super().observe()


class StopsWhenItIsRead(Mutant):
    caught_by = "test_reading_it_does_not_disturb_what_is_running"

    async def observe(self) -> Sequence[Reading]:
        self._stop_all()
        await asyncio.sleep(0.01)
        return await super().observe()


class EstimatesByMood(Mutant):
    caught_by = "test_the_same_shapes_and_status_give_the_same_estimates"
    asked = 0

    def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
        self.asked += 1
        return [
            msgspec.structs.replace(one, duration_s=one.duration_s + self.asked)
            for one in super().estimate(shapes, status)
        ]


class EstimatesFromHiddenState(Mutant):
    caught_by = "test_the_same_shapes_and_status_give_the_same_estimates"

    def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
        spent = 0.1 * len(self.order)
        return [msgspec.structs.replace(one, fidelity=1.0 - spent) for one in super().estimate(shapes, status)]


class RaisesInsteadOfRefusingInAnEstimate(Mutant):
    caught_by = "test_a_refusal_is_an_estimate_in_its_place_and_not_an_exception"

    def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
        for shape in shapes:
            self._ask(shape.action)
        return super().estimate(shapes, status)


class LeavesRefusedShapesOut(Mutant):
    caught_by = "test_a_refusal_is_an_estimate_in_its_place_and_not_an_exception"

    def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
        return [one for one in super().estimate(shapes, status) if not one.refusal]


class EstimatesAFidelityInPercent(Mutant):
    caught_by = "test_an_estimate_makes_sense"

    def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
        return [msgspec.structs.replace(one, fidelity=99.0) for one in super().estimate(shapes, status)]


class RaisesInHaltWhenClosed(Mutant):
    caught_by = "test_halt_never_raises_in_whatever_state"

    async def halt(self) -> None:
        if not self.is_open:
            raise DeviceFault("not open")
        await super().halt()


class HaltsByWaitingItsTurn(Mutant):
    caught_by = "test_halt_stops_what_is_running"

    async def halt(self) -> None:
        while self._running:  # noqa: ASYNC110 - the fault that is planted
            await asyncio.sleep(0.01)


class DoesNothingInHalt(Mutant):
    caught_by = "test_halt_stops_what_is_running"

    async def halt(self) -> None:
        return None


class StaysHaltedForEver(Mutant):
    caught_by = "test_a_halted_device_works_when_it_is_opened_again"

    def _admit(self, task: Task, attempt: Attempt) -> None:
        if self.halts:
            raise Refused("halted")
        super()._admit(task, attempt)


class DoesOneAtATime(Mutant):
    caught_by = "test_it_does_as_many_at_a_time_as_it_says"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._place = asyncio.Lock()

    async def _act(self, task: Task, attempt: Attempt) -> Result:
        async with self._place:
            return await super()._act(task, attempt)


class RecallsNothing(Mutant):
    caught_by = "test_recall_never_lies_about_what_is_done"

    async def recall(self, key: str) -> Recall:
        return Never()


class RecallsEverything(Mutant):
    caught_by = "test_recall_says_never_of_a_key_it_never_saw"

    async def recall(self, key: str) -> Recall:
        return Done(Result())


class RecallsWhatWasCancelledAsRunning(Mutant):
    caught_by = "test_after_cancelling_nothing_of_it_runs_on"
    seen: ClassVar[set[str]] = set()

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        self.seen.add(attempt.key)
        return await super().execute(task, attempt)

    async def recall(self, key: str) -> Recall:
        known = await super().recall(key)
        return Running() if isinstance(known, Never) and key in self.seen else known


class RecallsWhatRunsAsNever(Mutant):
    caught_by = "test_recall_says_running_while_it_runs"

    async def recall(self, key: str) -> Recall:
        return self.memory.outcomes.get(key) or Never()


class RecallsTheUnknownAsNever(Mutant):
    caught_by = "test_recall_says_unknown_when_it_cannot_say"

    async def recall(self, key: str) -> Recall:
        known = await super().recall(key)
        return known if isinstance(known, Done | Running) else Never()


class ForgetsInACrash(Mutant):
    caught_by = "test_recall_never_lies_about_what_is_done"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "memory": None})


class ObeysADeadKernel(Mutant):
    caught_by = "test_an_attempt_of_an_older_kernel_is_refused"

    def _admit(self, task: Task, attempt: Attempt) -> None:
        self.memory.epoch = 0
        super()._admit(task, attempt)


class ChangesItsSpecWhenOpened(Mutant):
    caught_by = "test_the_spec_is_known_before_opening_and_never_changes"

    @property
    def spec(self) -> DeviceSpec:
        return msgspec.structs.replace(super().spec, capacity=5 if self.is_open else 3)


class HasNoStatusBeforeOpening(Mutant):
    caught_by = "test_the_status_is_there_at_any_time_and_is_plain_data"

    def status(self) -> DeviceStatus:
        if not self.is_open:
            raise DeviceFault("not open")
        return super().status()


class LeaksWhenOpeningFails(Mutant):
    caught_by = "test_a_failed_opening_is_a_fault_and_leaves_nothing_behind"

    async def __aenter__(self) -> Self:
        self._watch = asyncio.create_task(asyncio.sleep(3600), name="watch")
        await super().__aenter__()
        self._watch.cancel()
        return self


class LeaksWhenClosed(Mutant):
    caught_by = "test_closing_leaves_nothing_behind"

    async def __aenter__(self) -> Self:
        self._watch = asyncio.create_task(asyncio.sleep(3600), name="watch")
        return await super().__aenter__()


class FailsToOpenWithItsOwnError(Mutant):
    caught_by = "test_a_failed_opening_is_a_fault_and_leaves_nothing_behind"

    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        except QaiError as error:
            raise ConnectionRefusedError(str(error)) from error


class OpensOnlyOnce(Mutant):
    caught_by = "test_it_opens_and_closes_and_opens_again"
    spent = False

    async def __aenter__(self) -> Self:
        if self.spent:
            raise DeviceFault("threads can only be started once")
        self.spent = True
        return await super().__aenter__()


class LeavesWorkRunningWhenClosed(Mutant):
    caught_by = "test_closing_ends_what_is_running"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.is_open = False


class WorksWhenClosed(Mutant):
    caught_by = "test_a_closed_device_takes_no_task"

    def _ask(self, action: str) -> None:
        self.is_open = True
        super()._ask(action)


class FaultsWhereItShouldRefuse(Mutant):
    caught_by = "test_an_action_it_does_not_offer_is_refused"

    def _ask(self, action: str) -> None:
        try:
            super()._ask(action)
        except Refused as error:
            raise DeviceFault(str(error)) from error


class StumblesOverWrongArguments(Mutant):
    caught_by = "test_wrong_arguments_are_refused_and_do_no_harm"

    def _admit(self, task: Task, attempt: Attempt) -> None:
        self._ask(task.action)
        float(task.arguments.get("amount", 0.0))


class LetsTheSdkErrorThrough(Mutant):
    caught_by = "test_a_fault_is_a_device_fault_and_the_device_goes_on"

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        try:
            return await super().execute(task, attempt)
        except DeviceFault as error:
            raise OSError(str(error)) from error


class SaysProgressInPercent(Mutant):
    caught_by = "test_progress_goes_from_0_to_1_and_chunks_are_plain_data"

    async def _follow(self, step: Step, task: Task, attempt: Attempt) -> Result:
        attempt.progress(50.0)
        return await super()._follow(step, task, attempt)


class ReturnsAnObject(Mutant):
    caught_by = "test_it_brings_back_a_result_of_plain_data"

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        result = await super().execute(task, attempt)
        return msgspec.structs.replace(result, value=object())


class LosesTheLastOfABatch(Mutant):
    caught_by = "test_a_batch_gives_each_task_its_own_outcome_in_order"

    async def execute_batch(self, batch: Batch, attempt: Attempt) -> BatchOutcome:
        outcome = await super().execute_batch(batch, attempt)
        return BatchOutcome(outcome.failed[:-1], outcome.blobs[:-1])


class TakesAnyBatch(Mutant):
    caught_by = "test_a_batch_of_an_action_it_does_not_offer_is_refused"

    async def execute_batch(self, batch: Batch, attempt: Attempt) -> BatchOutcome:
        return await super().execute_batch(msgspec.structs.replace(batch, shape=Shape("test.compute", {})), attempt)


class IgnoresWhatItDoesNotKnow(Mutant):
    caught_by = "test_wrong_arguments_are_refused_and_do_no_harm"

    def _admit(self, task: Task, attempt: Attempt) -> None:
        known = {name: value for name, value in task.arguments.items() if name == "amount"}
        super()._admit(msgspec.structs.replace(task, arguments=known), attempt)


ALL: tuple[type[Mutant], ...] = tuple(Mutant.__subclasses__())
