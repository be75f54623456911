"""Calibration snapshots are read as they were measured, without importing the package that ships them."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from qaios.core.errors import DeviceFault, NotFound
from qaios.quantum import calibration
from qaios.quantum.calibration import load, read, snapshots


def test_a_snapshot_has_the_figures_its_maker_published() -> None:
    sherbrooke = load("sherbrooke")
    assert sherbrooke.machine == "ibm_sherbrooke"
    assert sherbrooke.qubits == 127
    assert sherbrooke.date.startswith("2025-02-26")
    assert sherbrooke.entangler == "ecr"
    # Qubit 0 of props_sherbrooke.json, by eye.
    assert sherbrooke.t1_s[0] == pytest.approx(381.5685857300125e-6)
    assert sherbrooke.t2_s[0] == pytest.approx(131.70442930164933e-6)
    assert (sherbrooke.p10[0], sherbrooke.p01[0]) == (0.00634765625, 0.01611328125)
    assert sherbrooke.readout_s[0] == pytest.approx(1216e-9)
    assert sherbrooke.gates["ecr"][41, 40].error == pytest.approx(0.007986948615168243)
    assert sherbrooke.gates["ecr"][41, 40].length_s == pytest.approx(533.3333e-9, rel=1e-5)
    assert sherbrooke.repetition_delay_s == pytest.approx(250e-6)


def test_dead_couplers_are_stripped_and_named() -> None:
    sherbrooke = load("sherbrooke")
    assert len(sherbrooke.dead_couplers) == 9
    assert {(6, 5), (7, 6)} <= set(sherbrooke.dead_couplers)
    for name, places in sherbrooke.gates.items():
        assert all(gate.error < 0.5 for gate in places.values()), name
    assert not set(sherbrooke.dead_couplers) & set(sherbrooke.gates["ecr"])


@pytest.mark.parametrize("name", ["boston", "sherbrooke", "torino", "cusco", "lima", "cambridge", "rochester"])
def test_every_live_region_is_connected_and_whole(name: str) -> None:
    snapshot = load(name)
    region = set(snapshot.region)
    pairs = [pair for pair in snapshot.gates[snapshot.entangler] if set(pair) <= region]
    reached = {snapshot.region[0]}
    for _ in region:
        reached |= {qubit for pair in pairs if reached & set(pair) for qubit in pair}
    assert reached == region
    live = list(region)
    for column in (snapshot.t1_s, snapshot.t2_s, snapshot.p01, snapshot.p10, snapshot.readout_s):
        assert np.all(np.isfinite(column[live])) and np.all(column[live] >= 0)
    assert np.all(snapshot.t2_s[live] <= 2 * snapshot.t1_s[live] + 1e-15)


def test_a_machine_whose_couplers_are_all_dead_is_left_with_one_qubit() -> None:
    kyoto = load("kyoto")
    assert len(kyoto.dead_couplers) == 144
    assert len(kyoto.region) == 1


def test_all_installed_snapshots_can_be_read() -> None:
    names = snapshots()
    assert len(names) > 60
    for name in names:
        assert load(name).qubits >= 1


def test_changing_one_figure_changes_the_id() -> None:
    properties = {
        "backend_name": "ibm_test",
        "last_update_date": "2026-01-01T00:00:00+00:00",
        "qubits": [
            [
                {"name": "T1", "value": 100.0, "unit": "us"},
                {"name": "T2", "value": 500.0, "unit": "us"},
                {"name": "readout_error", "value": 0.02, "unit": ""},
            ]
        ],
        "gates": [],
    }
    built = json.dumps({"n_qubits": 1}).encode()
    first = read("test", json.dumps(properties).encode(), built)
    properties["qubits"][0][2]["value"] = 0.03  # type: ignore[index]
    second = read("test", json.dumps(properties).encode(), built)
    assert first.id != second.id
    assert first.t2_s[0] == pytest.approx(200e-6), "a T2 above twice T1 is measurement scatter"
    assert (first.p01[0], first.p10[0]) == (0.02, 0.02), "an old snapshot states one readout error for both"
    assert math.isfinite(first.readout_s[0])


def test_an_unknown_snapshot_is_not_found_and_the_known_ones_are_named() -> None:
    with pytest.raises(NotFound, match="atlantis") as caught:
        load("atlantis")
    assert "sherbrooke" in caught.value.hint


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "PACKAGE", "a_package_that_is_not_installed")
    with pytest.raises(DeviceFault, match="not installed") as caught:
        load("somewhere")
    assert "qaios[ibm]" in caught.value.hint
    assert snapshots() == ()


def test_reading_imports_neither_the_package_nor_qiskit() -> None:
    code = (
        "import sys, qaios.drivers.aer; from qaios.quantum.calibration import load; load('boston');"
        "heavy = {'qiskit', 'qiskit_ibm_runtime', 'qiskit_aer', 'scipy'};"
        "print(sorted({name.split('.')[0] for name in sys.modules} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
