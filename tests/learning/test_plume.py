"""The map of the plume: honest figures, the same from the same seed, and a fair comparison with plain methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from qaios.core.errors import Invalid
from qaios.learning import baselines, motion
from qaios.learning.field import fit
from qaios.learning.liquid import LiquidCell
from qaios.learning.network import Network, unpack
from qaios.learning.plume import check, gap_unit_s, map_plume, rehearse
from qaios.learning.samples import Samples, hold_out, read
from tests.learning import plumes


def mapped(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[float]]:
    """(value, fractions of progress)."""
    fractions, steps = [], map_plume(arguments)
    while True:
        try:
            fractions.append(next(steps)["fraction"])
        except StopIteration as end:
            return end.value, fractions


def asked(survey: plumes.Survey, **more: Any) -> dict[str, Any]:
    return {"samples": survey.rows, "truth": survey.truth_grid, "height_m": survey.up_m, "at_s": survey.at_s, **more}


@pytest.fixture(scope="module")
def survey() -> plumes.Survey:
    return plumes.fly(2)


@pytest.fixture(scope="module")
def mapping(survey: plumes.Survey) -> dict[str, Any]:
    return mapped(asked(survey, seed=7))[0]


def test_the_map_is_nearer_to_the_truth_than_plain_interpolation_over_seeds() -> None:
    """Over surveys, not in each: one flight may go either way, and the result says so."""
    errors = [mapped(asked(plumes.fly(seed), seed=seed, epochs=40))[0] for seed in range(5)]
    assert np.mean([e["plume_error"] for e in errors]) < np.mean([e["baseline_error"] for e in errors])


def test_the_truth_is_compared_with_and_never_learned_from(survey: plumes.Survey, mapping: dict[str, Any]) -> None:
    upside_down = survey.truth_grid | {"pm25_ug_m3": survey.truth[::-1].tolist()}
    other = mapped(asked(survey, seed=7) | {"truth": upside_down})[0]
    assert other["map"] == mapping["map"]
    assert other["files"]["model"] == mapping["files"]["model"]
    assert other["plume_error"] > 2.0 * mapping["plume_error"]


def test_the_same_seed_gives_the_same_map_and_model_and_another_seed_another(
    survey: plumes.Survey, mapping: dict[str, Any]
) -> None:
    assert mapped(asked(survey, seed=7))[0] == mapping
    assert mapped(asked(survey, seed=8))[0]["files"] != mapping["files"]


def test_both_errors_the_winner_and_the_held_out_figures_are_reported(mapping: dict[str, Any]) -> None:
    assert mapping["errors_against"] == "truth"
    assert mapping["plume_error"] == mapping["errors"]["liquid"]
    assert mapping["baseline_error"] == mapping["errors"][mapping["baseline"]] == mapping["errors"]["linear"]
    assert mapping["winner"] == min(mapping["errors"], key=lambda name: mapping["errors"][name])
    assert set(mapping["heldout"]["errors"]) == {"network", "still_field", "linear", "kriging"}
    assert mapping["heldout"]["samples"] > 10
    grid = np.array(mapping["map"]["pm25_ug_m3"])
    assert grid.shape == (len(mapping["map"]["north_m"]), len(mapping["map"]["east_m"]))
    assert np.isfinite(grid).all() and grid.min() >= 0.0


def test_the_model_says_what_it_was_trained_on(survey: plumes.Survey, mapping: dict[str, Any]) -> None:
    arrays, manifest = unpack(mapping["files"]["model"])
    assert manifest["cell"] == "liquid" and manifest["data_sha256"] == read(survey.rows).sha256
    assert manifest["samples"]["learned"] > manifest["samples"]["chose"] > 0
    network = Network(LiquidCell(manifest["features"], manifest["units"], np.random.default_rng(0)), 4,
                      np.random.default_rng(0))  # fmt: skip
    network.set_parameters({name: a for name, a in arrays.items() if not name.startswith("field.")})
    assert network.size == mapping["parameters"]


def test_validation_chooses_between_the_cells_and_progress_only_grows(survey: plumes.Survey) -> None:
    value, fractions = mapped(asked(survey, cell="auto", epochs=20))
    assert set(value["validation"]) == {"liquid", "gru"}
    assert value["cell"] == min(value["validation"], key=lambda cell: value["validation"][cell])
    assert value["plume_error"] == value["errors"][value["cell"]]
    assert fractions == sorted(fractions) and fractions[0] >= 0.0 and fractions[-1] <= 1.0


def test_without_truth_the_errors_are_those_on_the_held_out_samples(survey: plumes.Survey) -> None:
    arguments = {"samples": survey.rows, "area": survey.area, "step_m": 20.0, "epochs": 10}
    value, _ = mapped(arguments)
    assert value["errors_against"] == "held-out samples"
    assert value["plume_error"] == value["heldout"]["errors"]["network"]
    assert value["map"]["east_m"] == [-60.0, -40.0, -20.0, 0.0, 20.0, 40.0, 60.0]


def test_a_rehearsed_network_follows_a_swinging_plume_better_than_a_still_field() -> None:
    """The network is tested on swings it has not rehearsed, of a field it knows."""
    survey = plumes.fly(2)
    samples = read(survey.rows)
    steady, random = fit(samples), np.random.default_rng(0)
    frame = motion.frame_of(steady, samples)
    network = Network(LiquidCell(motion.FEATURES, 12, random), motion.OUTPUTS, random, readout_gain=0.05)
    for _ in rehearse(network, steady, samples, frame, 80, random):
        pass
    still, moved = [], []
    for seed in range(12):
        measured, clean = motion.imagined(steady, samples, frame, np.random.default_rng([99, seed]))
        stream = motion.stream_of(measured, steady, gap_unit_s(samples))
        said = motion.say(network, stream, np.ones(len(samples), dtype=np.bool_))
        followed = motion.predict(steady, said, samples.at_m, frame)
        moved.append(np.mean(((followed - clean.pm25) / samples.sigma) ** 2))
        still.append(np.mean(((steady.value(samples.at_m) - clean.pm25) / samples.sigma) ** 2))
    assert np.mean(moved) < 0.95 * np.mean(still)


def test_the_slopes_of_the_loss_equal_central_differences() -> None:
    samples = read(plumes.fly(4).rows)
    field, random = fit(samples), np.random.default_rng(1)
    frame = motion.frame_of(field, samples)
    few = samples.part(np.arange(len(samples)) % 40 == 0)
    said = random.normal(0.0, 0.5, (len(few), motion.OUTPUTS))
    counted = random.random(len(few)) < 0.8
    _, slopes = motion.loss_and_slopes(field, said, few, frame, counted, 0.3)
    for place in np.ndindex(said.shape):
        nudge = np.zeros_like(said)
        nudge[place] = 1e-5
        above, below = (motion.loss_and_slopes(field, said + s * nudge, few, frame, counted, 0.3)[0] for s in (1, -1))
        assert slopes[place] == pytest.approx((above - below) / 2e-5, rel=1e-4, abs=1e-7)


def test_windows_count_every_moment_once() -> None:
    samples = read(plumes.fly(0).rows)
    stream = motion.stream_of(samples, fit(samples), 0.2)
    moments = np.arange(float(len(samples)))[:, None]
    np.testing.assert_array_equal(stream.gather(stream.scatter(moments)), moments)
    assert np.array_equal(stream.rows[stream.step, stream.window], np.arange(len(samples)))


def test_the_network_hears_of_a_sample_only_after_it() -> None:
    samples = read(plumes.fly(0).rows)
    field, random = fit(samples), np.random.default_rng(0)
    network = Network(LiquidCell(motion.FEATURES, 6, random), motion.OUTPUTS, random)
    seen, k = np.ones(len(samples), dtype=np.bool_), 150
    before = motion.say(network, motion.stream_of(samples, field, 0.2), seen)
    louder = Samples(samples.t_s, samples.at_m, samples.pm25 + 30.0 * (np.arange(len(samples)) == k), samples.sigma,
                     samples.track)  # fmt: skip
    after = motion.say(network, motion.stream_of(louder, field, 0.2), seen)
    np.testing.assert_array_equal(after[: k + 1], before[: k + 1])
    assert not np.array_equal(after[k + 1], before[k + 1])
    hidden = motion.say(network, motion.stream_of(louder, field, 0.2), np.arange(len(samples)) != k)
    np.testing.assert_array_equal(
        hidden, motion.say(network, motion.stream_of(samples, field, 0.2), np.arange(len(samples)) != k)
    )


def test_samples_are_read_however_nested_once_and_in_order() -> None:
    row = [[float(t), 10.0 * t, 0.0, 20.0, 9.0, 1.0] for t in range(60)]
    nested = read([row[30:], {"samples": [row[:30], row[10:20]]}])
    assert len(nested) == 60 and np.array_equal(nested.t_s, np.arange(60.0))
    assert set(nested.track) == {0}


def test_tracks_are_told_apart_by_what_can_be_flown(survey: plumes.Survey) -> None:
    samples = read([row for rows in survey.rows for row in rows])
    heights = [set(np.round(samples.at_m[samples.track == n, 2] / 3.0)) for n in range(samples.track.max() + 1)]
    assert len(heights) == 4 and all(len(own) <= 2 for own in heights)


def test_whole_pieces_of_track_are_held_out(survey: plumes.Survey) -> None:
    samples = read(survey.rows)
    role = hold_out(samples, 0.12, np.random.default_rng(0))
    assert set(role) == {0, 1, 2} and np.mean(role == 0) > 0.6
    for number in range(samples.track.max() + 1):
        own = role[samples.track == number]
        assert np.count_nonzero(np.diff(own)) < len(own) / 4  # changes of role are rare along a track


def test_the_baselines_hit_a_plane_without_noise() -> None:
    random = np.random.default_rng(3)
    at = np.column_stack([random.uniform(-50, 50, (300, 2)), np.full(300, 20.0)])
    samples = Samples(np.arange(300.0), at, 20.0 + 0.1 * at[:, 0], np.full(300, 0.05), np.zeros(300, dtype=np.int64))
    places = np.column_stack([random.uniform(-40, 40, (50, 2)), np.full(50, 20.0)])
    for method in (baselines.linear, baselines.kriging):
        np.testing.assert_allclose(method(samples, places), 20.0 + 0.1 * places[:, 0], atol=0.15)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"samples": [[1.0, 2.0, 3.0]]}, "six"),
        ({"samples": []}, "too few"),
        ({"samples": [[float(t), 0, 0, 0, 1.0, 0.0] for t in range(50)]}, "sigma > 0"),
        ({"samples": [[float("nan"), t, 0, 0, 1.0, 1.0] for t in range(50)]}, "finite"),
        ({"samples": "all"}, "not a list"),
        ({"samples": {"rows": []}}, "without the key"),
        ({"cell": "lstm"}, "lstm"),
        ({"epochs": 0}, "epochs"),
        ({"at_s": "noon"}, "at_s"),
        ({"area": {"west_m": 1.0, "east_m": 0.0, "south_m": 0.0, "north_m": 1.0}}, "no grid"),
        ({"area": {"west_m": 0.0, "east_m": 1e5, "south_m": 0.0, "north_m": 1e5}}, "points"),
        ({"truth": {"east_m": [0.0, 1.0]}}, "pm25_ug_m3"),
        ({"truth": {"east_m": [0.0, 1.0], "north_m": [0.0, 1.0], "pm25_ug_m3": [[1.0, 2.0]]}}, "shape"),
    ],
)
def test_arguments_that_make_no_map_are_refused_with_the_reason(
    survey: plumes.Survey, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(Invalid, match=says):
        check({"samples": survey.rows, **change})
