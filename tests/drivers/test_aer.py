"""The simulated machines as the kernel meets them: planned, run, halted, recalled.

What every device promises is in `test_aer_kit`; here is what is particular to this one. The tests share one open
machine, because every process it starts has to import qiskit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from qaios.contracts import Site
from qaios.core.errors import DeviceFault, OutcomeUnknown, Refused
from qaios.core.values import Done, Effect, Never, Result, Running, Shape, Task, Unknown
from qaios.drivers.aer import DRIVER, OPTIMIZE, SAMPLE, AerConfig, AerDevice, devices
from qaios.drivers.ledger import Ledger
from qaios.drivers.worker import started_s
from qaios.quantum.qubo import solve_classical
from qaios.testing.clock import FakeClock
from qaios.testing.memory import FakeAttempt, MemoryArtifacts
from tests.quantum.circuits_for_tests import BELL, ghz
from tests.quantum.test_qubo import GRID

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE_S = 60.0
# Thirteen entangled qubits, thousands of trajectories: a long run that nobody waits for.
SLOW: dict[str, Any] = {"circuit": ghz(13), "shots": 20_000}


def site(home: Path) -> Site:
    return Site(clock=FakeClock(), artifacts=MemoryArtifacts(), home=str(home))


def make(home: Path, **config: Any) -> AerDevice:
    return devices(AerConfig(**{"snapshots": ("boston",), "warm": False, **config}), site(home))[0]


def task(action: str = SAMPLE, **arguments: Any) -> Task:
    return Task(1, "mission", "task", action, arguments)


async def done(device: AerDevice, asked: Task, key: str) -> Result:
    async with asyncio.timeout(PATIENCE_S):
        return await device.execute(asked, FakeAttempt(key))


async def begun(device: AerDevice, key: str) -> asyncio.Task[Result]:
    """A slow run that has reached its worker."""
    attempt = FakeAttempt(key)
    run = asyncio.ensure_future(device.execute(task(**SLOW), attempt))
    word = asyncio.ensure_future(attempt.said())
    await asyncio.wait((run, word), timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    assert word.done(), run.result() if run.done() else "it did not begin"
    return run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("node")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def device(home: Path) -> AsyncIterator[AerDevice]:
    async with make(home) as opened:
        yield opened


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """An idempotency key of the test's own."""
    return str(request.node.name)


async def test_each_snapshot_is_a_device_that_says_what_is_real_and_what_is_simulated(tmp_path: Path) -> None:
    boston, sherbrooke = devices(AerConfig(), site(tmp_path))
    assert [boston.spec.name, sherbrooke.spec.name] == ["ibm-boston", "ibm-sherbrooke"]
    assert boston.spec.simulated and boston.spec.kind == "qpu" and boston.spec.capacity == 1
    assert "Real data: its calibration of 2026-04-17" in boston.spec.summary
    assert "Simulated: the qubits" in boston.spec.summary
    for action in boston.spec.actions:
        assert action.quantum and action.effect is Effect.EFFECTFUL
    assert DRIVER.config() == AerConfig()


async def test_the_status_shows_the_calibration_before_opening(tmp_path: Path) -> None:
    status = make(tmp_path).status()
    assert status.value("qubits") == 155
    assert status.value("t1_median") == pytest.approx(293e-6, rel=0.05)
    assert status.value("two_qubit_error_median") == pytest.approx(0.0013, rel=0.1)
    assert status.pid is None


async def test_observing_stamps_the_figures_with_the_clock(tmp_path: Path) -> None:
    clock = FakeClock()
    (machine,) = devices(
        AerConfig(snapshots=("lima",)), Site(clock=clock, artifacts=MemoryArtifacts(), home=str(tmp_path))
    )
    readings = await machine.observe()
    assert {reading.time_s for reading in readings} == {clock.now_s()}
    assert machine.status().readings[0].time_s < clock.now_s(), "the status keeps the time of the calibration"


async def test_an_unknown_snapshot_is_listed_with_its_trouble_and_cannot_be_opened(tmp_path: Path) -> None:
    machine = make(tmp_path, snapshots=("atlantis",))
    assert "atlantis" in machine.spec.summary
    (estimate,) = machine.estimate([Shape(SAMPLE, {"circuit": BELL})], machine.status())
    assert "atlantis" in estimate.refusal
    with pytest.raises(DeviceFault, match="atlantis"):
        await machine.__aenter__()


async def test_a_bell_pair_comes_back_with_its_provenance(device: AerDevice, key: str) -> None:
    result = await done(device, task(circuit=BELL, shots=1000), key)
    assert result.value["counts"]["00"] + result.value["counts"]["11"] > 960
    assert result.provenance["device"] == "ibm-boston"
    assert result.provenance["simulated"] is True


async def test_sectors_are_split_beside_the_classical_optimum(device: AerDevice, key: str) -> None:
    result = await done(device, task(OPTIMIZE, **GRID, parts=2, shots=500), key)
    classical = solve_classical({**GRID, "parts": 2})
    assert result.value["optimal_assignment"] == classical["assignment"]
    assert result.value["cost"] >= classical["cost"]


async def test_a_prepared_shape_is_estimated_from_the_calibration_and_another_by_a_stated_prior(
    device: AerDevice,
) -> None:
    shapes = [Shape(SAMPLE, {"circuit": ghz(3), "shots": 2000}), Shape(SAMPLE, {"circuit": "${draw.circuit}"})]
    before = device.status()
    guessed = device.estimate(shapes, before)
    assert all(estimate.terms["prior"] == 1.0 for estimate in guessed)
    await device.prepare(shapes)
    after = device.status()
    assert after.version > before.version, "a new version is a new estimate"
    known, unknown = device.estimate(shapes, after)
    assert "prior" not in known.terms
    assert known.terms["qpu_s"] == pytest.approx(2000 * 250e-6, rel=0.05)
    assert 0.95 < known.fidelity < 1.0
    assert unknown == guessed[1], "what does not exist yet cannot be compiled"
    assert device.estimate(shapes, before) == guessed, "an old status keeps its estimate"
    await device.prepare(shapes)
    assert device.status() == after, "what is known is not planned again"


async def test_what_is_wrong_is_refused_in_the_estimate_with_its_place(device: AerDevice) -> None:
    shapes = [
        Shape(SAMPLE, {"circuit": BELL.replace("cx", "cnot")}),
        Shape(SAMPLE, {"circuit": BELL, "shots": 10**9}),
        Shape(SAMPLE, {"circuit": ghz(156)}),
        Shape(OPTIMIZE, {"problem": "tsp"}),
        Shape("drone.scan", {}),
    ]
    await device.prepare(shapes)
    refusals = [estimate.refusal for estimate in device.estimate(shapes, device.status())]
    for refusal, said in zip(refusals, ("6:1: 'cnot'", "shots", "needs 156 qubits", "tsp", "drone.scan"), strict=True):
        assert said in refusal


@pytest.mark.parametrize(
    "asked",
    [task(circuit="qubit q; nonsense"), task(), task(OPTIMIZE, problem="tsp"), task("drone.scan")],
    ids=["syntax", "missing", "problem", "action"],
)
async def test_what_is_wrong_is_refused_and_leaves_nothing(device: AerDevice, asked: Task, key: str) -> None:
    with pytest.raises(Refused):
        await done(device, asked, key)
    assert await device.recall(key) == Never()


async def test_one_key_is_one_run_after_a_restart_too(device: AerDevice, home: Path, key: str) -> None:
    first = await done(device, task(circuit=BELL), key)
    async with make(home) as again:
        assert await done(again, task(circuit=ghz(3)), key) == first
        assert await again.recall(key) == Done(first)
        assert await again.recall("another") == Never()


async def test_a_submission_is_on_disk_before_the_run_and_void_when_it_is_halted(
    device: AerDevice, home: Path, key: str
) -> None:
    run = await begun(device, key)
    entry = Ledger(home / "devices" / "ibm-boston" / "ledger").find(key)
    pid = device.status().pid
    assert entry is not None and pid is not None
    assert (entry.state, entry.pid) == ("began", pid)
    # A kernel started anew is told that it runs, as long as that process lives.
    assert isinstance(await make(home).recall(key), Running)
    await device.halt()
    with pytest.raises(DeviceFault, match="halted"):
        await asyncio.wait_for(run, PATIENCE_S)
    assert started_s(pid) == 0.0, "the process is gone when the halt is over"
    assert await device.recall(key) == await make(home).recall(key) == Never()
    assert await done(device, task(circuit=BELL), key), "and it may be run again"


async def test_machines_share_a_warm_worker_until_both_run_and_promise_by_their_quality(tmp_path: Path) -> None:
    boston, sherbrooke = devices(AerConfig(), site(tmp_path))
    shape = Shape(SAMPLE, {"circuit": ghz(6)})
    async with boston, sherbrooke:
        for machine in (boston, sherbrooke):
            await machine.prepare([shape])
        better, worse = (machine.estimate([shape], machine.status())[0].fidelity for machine in (boston, sherbrooke))
        assert better > worse
        alone = await begun(boston, "a")
        first = boston.status().pid
        await boston.halt()
        together = [await begun(machine, "b") for machine in (boston, sherbrooke)]
        pids = {first, boston.status().pid, sherbrooke.status().pid}
        assert len(pids) == 3, "the killed one is gone, and two runs at a time are two processes"
        await asyncio.gather(boston.halt(), sherbrooke.halt())
        for run in (alone, *together):
            with pytest.raises(DeviceFault, match="halted"):
                await run
    assert not any(started_s(pid) for pid in pids if pid is not None), "closing leaves no process behind"


async def test_a_ledger_that_cannot_be_trusted_runs_nothing(tmp_path: Path) -> None:
    entry = Ledger(tmp_path / "devices" / "ibm-boston" / "ledger").path("k")
    entry.parent.mkdir(parents=True)
    entry.write_bytes(b"this was an entry once")
    async with make(tmp_path) as machine:
        assert isinstance(await machine.recall("k"), Unknown)
        with pytest.raises(OutcomeUnknown):
            await done(machine, task(circuit=BELL), "k")
