"""The cells: their gradients are right, their states stay bounded, and what is stored comes back."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qaios.core.errors import Invalid
from qaios.learning.liquid import LiquidCell
from qaios.learning.network import Array, Cell, Network, load, pack, save, unpack
from qaios.learning.recurrent import GruCell
from qaios.learning.training import Adam, Checkpoint, clip

KINDS: dict[str, type[LiquidCell] | type[GruCell]] = {"liquid": LiquidCell, "gru": GruCell}


def network_of(kind: str, features: int, units: int, outputs: int, random: np.random.Generator) -> Network:
    cell: Cell = KINDS[kind](features, units, random)
    network = Network(cell, outputs, random)
    for value in network.parameters.values():  # biases start at zero, where a wrong gradient could hide
        np.add(value, random.normal(0.0, 0.3, value.shape), out=value)
    return network


def central_differences(network: Network, name: str, loss: object, step: float = 1e-6) -> Array:
    value = network.parameters[name]
    slope = np.empty_like(value)
    for place in np.ndindex(value.shape):
        kept = value[place]
        value[place] = kept + step
        above = loss()  # type: ignore[operator]
        value[place] = kept - step
        below = loss()  # type: ignore[operator]
        value[place] = kept
        slope[place] = (above - below) / (2.0 * step)
    return slope


@pytest.mark.parametrize("kind", sorted(KINDS))
@settings(max_examples=12, deadline=None)
@given(
    steps=st.integers(1, 6),
    batch=st.integers(1, 3),
    features=st.integers(1, 3),
    units=st.integers(1, 4),
    outputs=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_gradient_equals_central_differences(
    kind: str, steps: int, batch: int, features: int, units: int, outputs: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    network = network_of(kind, features, units, outputs, random)
    inputs = random.normal(size=(steps, batch, features))
    gaps = random.exponential(1.0, size=(steps, batch))
    state = random.uniform(-0.9, 0.9, size=(batch, units))
    wanted = random.normal(size=(steps, batch, outputs))

    def loss() -> float:
        return 0.5 * float(np.sum((network.run(inputs, gaps, state)[0] - wanted) ** 2))

    outputs_now, tape = network.run(inputs, gaps, state)
    gradients = network.gradients(tape, outputs_now - wanted)
    assert gradients.keys() == network.parameters.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(
            gradient, central_differences(network, name, loss), rtol=1e-5, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_gradient_of_the_first_state_is_right_too(kind: str) -> None:
    random = np.random.default_rng(3)
    cell: Cell = KINDS[kind](2, 3, random)
    inputs, gaps = random.normal(size=(5, 2, 2)), random.exponential(size=(5, 2))
    state = random.uniform(-0.5, 0.5, size=(2, 3))
    tape = cell.run(inputs, gaps, state)
    _, of_state = cell.gradients(tape, np.ones_like(tape.states))
    for place in np.ndindex(state.shape):
        nudge = np.zeros_like(state)
        nudge[place] = 1e-6
        above, below = (cell.run(inputs, gaps, state + sign * nudge).states.sum() for sign in (1.0, -1.0))
        assert of_state[place] == pytest.approx((above - below) / 2e-6, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("kind", sorted(KINDS))
@settings(max_examples=30, deadline=None)
@given(
    scale=st.sampled_from([1.0, 1e3, 1e6, 1e12]), gap=st.sampled_from([0.0, 1e-6, 1.0, 1e9]), seed=st.integers(0, 1000)
)
def test_the_state_stays_bounded_whatever_comes_in(kind: str, scale: float, gap: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    cell: Cell = KINDS[kind](3, 4, random)
    with np.errstate(all="raise", under="ignore"):
        states = cell.run(scale * random.normal(size=(20, 2, 3)), np.full((20, 2), gap)).states
    assert np.all(np.isfinite(states))
    assert np.max(np.abs(states)) <= 1.0


def test_the_liquid_cell_uses_the_time_gap() -> None:
    cell = LiquidCell(1, 4, np.random.default_rng(1))
    inputs = np.ones((6, 1, 1))
    short, long = (cell.run(inputs, np.full((6, 1), gap)).states for gap in (0.1, 5.0))
    assert np.max(np.abs(short - long)) > 1e-2


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_network_learns_a_decay_that_only_the_gaps_explain(kind: str) -> None:
    """y decays by exp(-gap) from the last input pulse: with the gap it can be learned, without it cannot."""
    random = np.random.default_rng(5)

    def batch(of: int) -> tuple[Array, Array, Array]:
        gaps = random.exponential(0.5, size=(12, of))
        pulses = (random.random((12, of)) < 0.4) * random.uniform(0.3, 1.0, (12, of))
        level, wanted = np.zeros(of), np.empty((12, of, 1))
        for t in range(12):
            level = level * np.exp(-gaps[t]) + pulses[t]
            wanted[t, :, 0] = level
        return pulses[..., None], gaps, wanted

    inputs, gaps, wanted = batch(64)
    checks = batch(64)
    network = Network(KINDS[kind](1, 8, random), 1, random)
    adam, best = Adam(rate=2e-2), Checkpoint()
    for epoch in range(150):
        outputs, tape = network.run(inputs, gaps)
        gradients = network.gradients(tape, (outputs - wanted) / wanted.size)
        clip(gradients, 1.0)
        adam.step(network.parameters, gradients)
        best.offer(network, float(np.mean((network.run(checks[0], checks[1])[0] - checks[2]) ** 2)), epoch)
    best.restore(network)
    assert best.error < 0.1 * np.var(checks[2])
    blind = np.mean((network.run(checks[0], np.full_like(checks[1], 0.5))[0] - checks[2]) ** 2)
    assert blind > 1.5 * best.error


def test_clip_shortens_all_gradients_together_and_leaves_short_ones_alone() -> None:
    gradients = {"a": np.array([3.0]), "b": np.array([4.0])}
    assert clip(gradients, 1.0) == pytest.approx(5.0)
    assert gradients["a"][0] == pytest.approx(0.6) and gradients["b"][0] == pytest.approx(0.8)
    assert clip(gradients, 10.0) == pytest.approx(1.0)
    assert gradients["b"][0] == pytest.approx(0.8)


def test_the_checkpoint_keeps_the_best_and_refuses_what_is_not_a_number() -> None:
    network = Network(LiquidCell(1, 2, np.random.default_rng(0)), 1, np.random.default_rng(0))
    best = Checkpoint()
    assert best.offer(network, 2.0, 0)
    kept = network.copy_parameters()
    network.parameters["readout.c"] += 1.0
    assert not best.offer(network, float("nan"), 1)
    assert not best.offer(network, 3.0, 2)
    best.restore(network)
    np.testing.assert_array_equal(network.parameters["readout.c"], kept["readout.c"])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_stored_network_comes_back_bit_for_bit_and_the_same_network_is_the_same_file(kind: str) -> None:
    random = np.random.default_rng(9)
    network = network_of(kind, 2, 3, 2, random)
    content = save(network, {"gap_unit_s": 0.5})
    assert content == save(network, {"gap_unit_s": 0.5})
    again, manifest = load(content, KINDS)
    assert manifest["gap_unit_s"] == 0.5 and manifest["cell"] == kind
    inputs, gaps = random.normal(size=(4, 1, 2)), np.ones((4, 1))
    np.testing.assert_array_equal(network.run(inputs, gaps)[0], again.run(inputs, gaps)[0])


def test_a_file_that_is_not_a_network_or_was_changed_is_refused() -> None:
    with pytest.raises(Invalid, match="not a network file"):
        unpack(b"hello")
    with pytest.raises(Invalid, match="not a network file"):
        unpack(b"")
    network = network_of("liquid", 1, 2, 1, np.random.default_rng(0))
    arrays, manifest = unpack(save(network, {}))
    arrays["readout.c"] = arrays["readout.c"] + 1.0
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(manifest).encode(), dtype=np.uint8)
    np.savez(buffer, manifest=text, **arrays)  # type: ignore[arg-type]
    with pytest.raises(Invalid, match=r"changed .* readout\.c"):
        unpack(buffer.getvalue())
    with pytest.raises(Invalid, match="kind 'lstm'"):
        load(pack({"a": np.zeros(1)}, {"cell": "lstm", "features": 1, "units": 1, "outputs": 1}), KINDS)


def test_pickled_content_is_never_opened() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, manifest=np.array([{"format": "x"}], dtype=object))
    with pytest.raises(Invalid, match="not a network file"):
        unpack(buffer.getvalue())


def test_parameters_of_another_network_are_refused() -> None:
    random = np.random.default_rng(0)
    small, large = (network_of("liquid", 1, units, 1, random) for units in (2, 3))
    with pytest.raises(Invalid, match="shape"):
        small.set_parameters(large.parameters)
    with pytest.raises(Invalid, match="not this network's"):
        small.set_parameters(network_of("gru", 1, 2, 1, random).parameters)
