"""Driver `aer`: IBM quantum machines, simulated from their real calibration.

One configuration names calibration snapshots; each becomes a device `ibm-<snapshot>` that takes `quantum.sample`
and `quantum.optimize` as a real machine would: it compiles to the machine's gates and couplers, says beforehand
how long a run takes and how likely a shot is right, runs with the machine's noise, and brings back counts with
their provenance. What runs is `qaios.quantum.aer`, in a worker process; qiskit is never imported here.

    prepare(shapes) ──▶ a worker compiles and plans ──▶ estimate(shapes) answers from what was planned
    execute(task)   ──▶ ledger: began ──▶ a worker runs ──▶ ledger: done ──▶ Result

Submissions are effects, as on the real machine: a ledger on disk remembers each by its idempotency key, so after
a crash `recall` knows what happened. Workers come from a small bench that the devices of one configuration
share: one that is warm is lent again, so as a rule a node has a single process with qiskit in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from qaios.bridge.references import refers
from qaios.contracts import Attempt, Driver, Isolation, Site
from qaios.core.errors import DeviceFault, Invalid, NotFound, OutcomeUnknown, QaiError, Refused
from qaios.core.values import (
    ActionSpec,
    DeviceSpec,
    DeviceStatus,
    Done,
    Effect,
    Estimate,
    HaltRecipe,
    Never,
    Reading,
    Recall,
    Result,
    Shape,
    SignalHalt,
    Task,
    Unit,
)
from qaios.drivers.ledger import Ledger
from qaios.drivers.once import Once
from qaios.drivers.worker import Worker
from qaios.quantum import aer
from qaios.quantum.calibration import Calibration, load
from qaios.quantum.estimate import prior
from qaios.quantum.qubo import read_problem

SAMPLE, OPTIMIZE = "quantum.sample", "quantum.optimize"
_PLANS_MAX = 4096

ACTIONS = (
    ActionSpec(
        SAMPLE,
        "Run a circuit and count what is measured.",
        effect=Effect.EFFECTFUL,
        quantum=True,
        parameters={
            "circuit": "OpenQASM 2 or OpenQASM 3 text, with at least one measurement",
            "shots": "how often to run it (1024)",
            "seed": "of the simulated chance; default: drawn from the mission's",
            "memory": "true: bring back every shot's bits too (false)",
            "parameters": "values of the circuit's input parameters, by name",
        },
        required=("circuit",),
    ),
    ActionSpec(
        OPTIMIZE,
        "Minimise a QUBO or split sectors by QAOA; the classical optimum is always reported beside the answer.",
        effect=Effect.EFFECTFUL,
        quantum=True,
        parameters={
            "problem": "'sector-split' or 'qubo'",
            "cells": "sector-split: a list of {id, load}, 2 to 10",
            "edges": "sector-split: [i, j, weight] of neighbouring cells, by number from 0 or by id",
            "parts": "sector-split: 2 or 4 (2)",
            "balance": "sector-split: weight of even loads against short borders (half the largest edge sum of a cell)",
            "linear": "qubo: a number for each of up to 12 variables",
            "quadratic": "qubo: [i, j, weight] of pairs of variables",
            "offset": "qubo: a constant added to every cost (0)",
            "p": "layers of QAOA, 1 to 3 (1)",
            "shots": "samples of each circuit (1024)",
            "seed": "of the simulated chance; default: drawn from the mission's",
        },
        required=("problem",),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AerConfig:
    """Which machines to simulate, and what one simulation may take.

    `snapshots` are names of calibration snapshots in qiskit-ibm-runtime. The default pair is a Heron r3 of
    156 qubits (2026) and an Eagle r3 of 127 (2025), whose two-qubit error is six times as large.
    """

    snapshots: tuple[str, ...] = ("boston", "sherbrooke")
    shots_max: int = 100_000
    simulation_max_s: float = 120.0
    simulation_memory_max_bytes: int = 2 << 30
    plan_max_s: float = 30.0  # to compile and plan for `estimate`; what takes longer is refused
    warm: bool = True  # import qiskit in the background when the first device opens


class Bench:
    """Worker processes shared by the devices of one configuration: a free one is lent before a new one is started."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._free: list[Worker] = []
        self._lent: set[Worker] = set()
        self._made = 0
        self._open = 0
        self._warming: asyncio.Task[None] | None = None

    def open(self, snapshots: Sequence[str]) -> None:
        """One more device is open; the first one starts to warm a worker, and does not wait for it."""
        self._open += 1
        if self._open == 1 and snapshots:
            self._warming = asyncio.get_running_loop().create_task(self._warm(snapshots), name=f"warm {self._name}")

    async def close(self) -> None:
        """One device less; with the last one all workers end."""
        self._open -= 1
        if self._open:
            return
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.wait((self._warming,))
            self._warming = None
        await asyncio.gather(*(worker.stop() for worker in (*self._free, *self._lent)))
        self._free.clear()

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[Worker]:
        """A worker for one call, started."""
        if self._warming is not None and not self._warming.done() and not self._free:
            # The worker that is warming is sooner ready than a cold one.
            await asyncio.wait((self._warming,))
        worker = self._free.pop() if self._free else self._new()
        self._lent.add(worker)
        try:
            await worker.start()
            yield worker
        finally:
            self._lent.discard(worker)
            if self._open:
                self._free.append(worker)
            else:
                await worker.stop()

    def _new(self) -> Worker:
        self._made += 1
        return Worker(f"{self._name}-{self._made}")

    async def _warm(self, snapshots: Sequence[str]) -> None:
        worker = self._new()
        self._lent.add(worker)
        try:
            for snapshot in snapshots:
                await worker.call("qaios.quantum.aer:warm", snapshot)
        except QaiError:
            # Warming is a favour: whoever needs the worker next meets the same fault where it can be reported.
            await worker.stop()
        finally:
            self._lent.discard(worker)
            self._free.append(worker)


class AerDevice:
    """One simulated machine."""

    def __init__(self, snapshot: str, config: AerConfig, site: Site, bench: Bench) -> None:
        self._snapshot, self._config, self._site, self._bench = snapshot, config, site, bench
        self._calibration: Calibration | None = None
        self._absent = ""
        try:
            self._calibration = load(snapshot)
        except (DeviceFault, NotFound) as error:
            self._absent = f"{error}: {error.hint}"
        name = f"ibm-{snapshot}"
        self.spec = DeviceSpec(
            name=name,
            driver="aer",
            kind="qpu",
            actions=ACTIONS,
            capacity=1,
            simulated=True,
            summary=_summary(self._calibration) if self._calibration else self._absent,
        )
        self._readings = _readings(self._calibration) if self._calibration else ()
        # With a real machine, whose runs go on without us, `outlives` would be true.
        self._ledger = Ledger(Path(site.home) / "devices" / name / "ledger", outlives=False)
        self._once = Once()
        self._plans: dict[bytes, tuple[int, aer.Plan]] = {}  # by shape: since which version, and the plan
        self._version = 0
        self._open = False
        self._running: Worker | None = None
        self._halts = 0

    async def __aenter__(self) -> Self:
        if self._absent:
            raise DeviceFault(f"{self.spec.name} cannot be opened: {self._absent}", retryable=False)
        if not self._open:
            await asyncio.to_thread(self._ledger.open)
            self._open = True
            self._bench.open((self._snapshot,) if self._config.warm else ())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if not self._open:
            return
        self._open = False
        await self._once.close()
        await self._bench.close()

    def status(self) -> DeviceStatus:
        worker = self._running
        return DeviceStatus(
            version=self._version,
            pid=worker.pid if worker is not None else None,
            readings=self._readings,
        )

    async def prepare(self, shapes: Sequence[Shape]) -> None:
        """Compile and plan the shapes not seen yet, in a worker; `estimate` then answers for them.

        Shapes that refer to results that do not exist yet cannot be compiled and keep their prior.
        """
        new = {
            key: shape
            for shape in shapes
            if (key := _key(shape)) not in self._plans and not refers(shape.form) and self._offers(shape)
        }
        if not (new and self._open):
            return
        requests = [self._request(shape.action, shape.form, seed=0) for shape in new.values()]
        try:
            async with asyncio.timeout(self._config.plan_max_s), self._bench.lend() as worker:
                answers = await worker.call("qaios.quantum.aer:plan", requests)
            plans = [msgspec.convert(answer, aer.Plan) for answer in answers]
        except TimeoutError:
            plans = [aer.Plan(refusal=f"compiling took longer than {self._config.plan_max_s:g} s")] * len(new)
        except QaiError as error:
            plans = [aer.Plan(refusal=f"planning failed: {error}")] * len(new)
        self._version += 1
        for key, planned in zip(new, plans, strict=True):
            if len(self._plans) >= _PLANS_MAX:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = (self._version, planned)

    def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
        return [self._estimate(shape, status.version) for shape in shapes]

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        if not self._open:
            raise DeviceFault(f"{self.spec.name} is not open")
        return await self._once.run(attempt.key, lambda: self._submit(task, attempt))

    async def halt(self) -> None:
        self._halts += 1
        worker = self._running
        if worker is not None:
            worker.kill()
            await worker.ended()

    def halt_recipes(self) -> Sequence[HaltRecipe]:
        worker = self._running
        if worker is None or worker.pid is None:
            return ()
        return (SignalHalt(worker.pid, int(signal.SIGKILL), worker.started_s),)

    async def observe(self) -> Sequence[Reading]:
        if self._calibration is None:
            raise DeviceFault(self._absent, retryable=False)
        now_s = self._site.clock.now_s()
        return [msgspec.structs.replace(reading, time_s=now_s) for reading in self._readings]

    async def recall(self, key: str) -> Recall:
        known = self._once.recall(key)
        return known if not isinstance(known, Never) else await asyncio.to_thread(self._ledger.recall, key)

    # ---------------------------------------------------------------------------------------------- one run

    async def _submit(self, task: Task, attempt: Attempt) -> Result:
        """Run it, with a line in the ledger before and after."""
        try:
            request = self._request(task.action, task.arguments, seed=attempt.random.getrandbits(31))
            _check(request)
        except Invalid as error:
            raise Refused(str(error), hint=error.hint) from error
        before = await asyncio.to_thread(self._ledger.recall, attempt.key)
        if not isinstance(before, Never):
            if isinstance(before, Done):
                return before.result
            raise OutcomeUnknown(f"an earlier run of {attempt.key} is not accounted for: {before}")
        halts = self._halts
        async with self._bench.lend() as worker:
            await asyncio.to_thread(
                self._ledger.began,
                attempt.key,
                epoch=attempt.epoch,
                pid=worker.pid or 0,
                started_s=worker.started_s,
            )
            self._running = worker
            try:
                if self._halts != halts:
                    raise DeviceFault(f"{self.spec.name} was halted")
                answer = await worker.call("qaios.quantum.aer:run", request, lambda chunk: _progress(attempt, chunk))
            except BaseException as error:
                self._ledger.void(attempt.key, f"{type(error).__name__}: {error}")
                if isinstance(error, Invalid):
                    raise Refused(str(error), hint=error.hint) from error
                if isinstance(error, DeviceFault) and self._halts != halts:
                    raise DeviceFault(f"{self.spec.name} was halted during the run") from error
                raise
            finally:
                self._running = None
        result = Result(value=answer["value"], provenance={"device": self.spec.name, **answer["provenance"]})
        await asyncio.to_thread(self._ledger.done, attempt.key, result)
        return result

    def _request(self, action: str, arguments: Mapping[str, Any], *, seed: int) -> aer.Request:
        return aer.Request(
            snapshot=self._snapshot,
            action=action,
            arguments=dict(arguments),
            seed=seed,
            shots_max=self._config.shots_max,
            time_max_s=self._config.simulation_max_s,
            memory_max_bytes=self._config.simulation_memory_max_bytes,
        )

    def _offers(self, shape: Shape) -> bool:
        return self.spec.action(shape.action) is not None

    def _estimate(self, shape: Shape, version: int) -> Estimate:
        if self._calibration is None:
            return Estimate(duration_s=0.0, refusal=self._absent)
        if not self._offers(shape):
            return Estimate(duration_s=0.0, refusal=f"{self.spec.name} does not offer {shape.action}")
        if not refers(shape.form):
            try:
                _check(self._request(shape.action, shape.form, seed=0))
            except Invalid as error:
                return Estimate(duration_s=0.0, refusal=f"{error} ({error.hint})" if error.hint else str(error))
        since, planned = self._plans.get(_key(shape), (0, None))
        # A plan answers from the version it came with, so that an old status keeps its old estimate.
        if planned is None or since > version:
            return self._prior(shape, self._calibration)
        return Estimate(
            duration_s=planned.duration_s, fidelity=planned.fidelity, refusal=planned.refusal, terms=planned.terms
        )

    def _prior(self, shape: Shape, calibration: Calibration) -> Estimate:
        """For a shape that was not planned: a circuit of stated size on qubits of median quality."""
        given = shape.form.get("shots", aer.SHOTS)
        shots = given if isinstance(given, int) and given > 0 else aer.SHOTS
        qubits, gates, layers = (5, 10, 10) if shape.action == SAMPLE else (9, 100, 60)
        expected = prior(calibration, qubits=qubits, two_qubit_gates=gates, layers=layers)
        terms = {"prior": 1.0, "assumed_qubits": float(qubits), "assumed_two_qubit_gates": float(gates)}
        return Estimate(
            duration_s=expected.qpu_s(shots),
            fidelity=expected.success,
            terms={**terms, "qpu_s": expected.qpu_s(shots), "shots": float(shots)},
        )


def devices(config: AerConfig, site: Site) -> Sequence[AerDevice]:
    """One device for each snapshot of the configuration, sharing a bench of workers."""
    bench = Bench("aer")
    return [AerDevice(snapshot, config, site, bench) for snapshot in config.snapshots]


DRIVER: Driver[AerConfig] = Driver(
    name="aer",
    summary="IBM quantum machines simulated by qiskit-aer from their real calibration snapshots.",
    config=AerConfig,
    devices=devices,
    isolation=Isolation.PROCESS,
)


def _check(request: aer.Request) -> None:
    """What can be said about arguments without compiling anything. Raises `Invalid`."""
    known = next((action.parameters for action in ACTIONS if action.name == request.action), {})
    unknown = sorted(request.arguments.keys() - known.keys())
    if known and unknown:
        raise Invalid(f"{request.action} does not take {', '.join(unknown)}", hint=f"it takes: {', '.join(known)}")
    if request.action == SAMPLE:
        aer.read_sampling(request.arguments, request.shots_max)
    elif request.action == OPTIMIZE:
        read_problem(request.arguments)
        aer.read_layers(request.arguments)
        aer.read_shots(request.arguments, request.shots_max)
    else:
        raise Invalid(f"{request.action} is not an action of this device")
    aer.read_seed(request.arguments, 0)


def _progress(attempt: Attempt, chunk: Any) -> None:
    attempt.progress(float(chunk["fraction"]), str(chunk["note"]))


def _key(shape: Shape) -> bytes:
    return shape.action.encode() + b" " + msgspec.json.encode(shape.form, order="deterministic")


def _readings(calibration: Calibration) -> tuple[Reading, ...]:
    """What the calibration measured, at the time it was measured."""
    measured_s = datetime.fromisoformat(calibration.date).timestamp()
    median = calibration.medians()
    return (
        Reading("qubits", float(len(calibration.region)), Unit.ONE, measured_s),
        Reading("t1_median", median["t1_s"], Unit.SECOND, measured_s),
        Reading("t2_median", median["t2_s"], Unit.SECOND, measured_s),
        Reading("readout_error_median", median["readout_error"], Unit.ONE, measured_s),
        Reading("single_qubit_error_median", median["single_qubit_error"], Unit.ONE, measured_s),
        Reading("two_qubit_error_median", median["two_qubit_error"], Unit.ONE, measured_s),
        Reading("dead_couplers", float(len(calibration.dead_couplers)), Unit.ONE, measured_s),
    )


def _summary(calibration: Calibration) -> str:
    return (
        f"{calibration.machine} ({calibration.processor}, {len(calibration.region)} of {calibration.qubits} qubits "
        f"live), simulated by qiskit-aer. Real data: its calibration of {calibration.date[:10]} (T1, T2, readout, "
        "gate errors and lengths, couplers). Simulated: the qubits, with local noise, no crosstalk and no leakage."
    )
