"""Wind and plume follow the formulas they claim, and one seed is one weather."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from qaios.core.errors import Invalid
from qaios.worlds.air import INTERVAL_MAX_S, INTERVAL_MIN_S, AirSensor, PlumeField, briggs_urban_ab, noisy
from qaios.worlds.scene import Source, default_scene, read_scene
from qaios.worlds.wind import DrydenWind, dryden_scales
from qaios.worlds.wire import Grid

ONE_SOURCE = msgspec.structs.replace(
    default_scene(), sources=(Source("stack", 0.0, 0.0, 5.0, 50_000.0, 8.6),), wind_mps=(3.0, 0.0), background_ugm3=0.0
)


def gusts(seed: int, steps: int, step_s: float = 0.04) -> np.ndarray:
    wind = DrydenWind((3.0, 4.0), 6.0, np.random.default_rng(seed), step_s=step_s, height_m=12.0)
    return np.array([wind.step() for _ in range(steps)])


def test_the_same_seed_gives_the_same_wind_and_another_seed_another() -> None:
    assert np.array_equal(gusts(1, 200), gusts(1, 200))
    assert not np.allclose(gusts(1, 200), gusts(2, 200))


def test_dryden_scales_are_those_of_the_standard_at_100_feet() -> None:
    length_u, length_w, sigma_u, sigma_w = dryden_scales(100 * 0.3048, 10.0)
    assert length_w == pytest.approx(30.48)
    assert length_u == pytest.approx(100.0 / (0.177 + 0.0823) ** 1.2 * 0.3048)
    assert sigma_w == pytest.approx(1.0)
    assert sigma_u == pytest.approx(1.0 / (0.177 + 0.0823) ** 0.4)


def test_gusts_have_the_variance_of_the_model_whatever_the_step() -> None:
    for step_s in (0.04, 1.0):
        along = np.array([0.6, 0.8, 0.0])
        _, _, sigma_u, sigma_w = dryden_scales(12.0, 6.0)
        runs = np.concatenate([gusts(seed, 1500, step_s)[:: max(1, round(1.0 / step_s))] for seed in range(30)])
        turbulence = runs - np.array([3.0, 4.0, 0.0])
        assert np.std(turbulence @ along) == pytest.approx(sigma_u, rel=0.15)
        assert np.std(turbulence @ np.array([-0.8, 0.6, 0.0])) == pytest.approx(sigma_u, rel=0.15)
        assert np.std(turbulence[:, 2]) == pytest.approx(sigma_w, rel=0.15)


def test_gusts_along_the_wind_are_correlated_over_the_scale_length() -> None:
    length_u, *_ = dryden_scales(12.0, 6.0)
    lag = round(length_u / 5.0 / 0.2)  # the time in which the mean wind of 5 m/s carries one scale length past
    along = [(gusts(seed, 4000, 0.2) - [3.0, 4.0, 0.0]) @ [0.6, 0.8, 0.0] for seed in range(12)]
    correlation = np.mean([np.mean(u[:-lag] * u[lag:]) for u in along]) / np.mean([np.var(u) for u in along])
    assert correlation == pytest.approx(math.exp(-1.0), abs=0.15)


def test_the_plume_is_the_gaussian_formula_worked_by_hand() -> None:
    distance, cross, height = 60.0, 4.0, 8.0
    sigma_y = math.hypot(0.32 * distance / math.sqrt(1 + 0.0004 * distance), 8.6 / 4.3)
    sigma_z = math.hypot(0.24 * distance * math.sqrt(1 + 0.001 * distance), 5.0 / 2.15)
    by_hand = (
        50_000.0
        / (2 * math.pi * 3.0 * sigma_y * sigma_z)
        * math.exp(-(cross**2) / (2 * sigma_y**2))
        * (math.exp(-((height - 5.0) ** 2) / (2 * sigma_z**2)) + math.exp(-((height + 5.0) ** 2) / (2 * sigma_z**2)))
    )
    assert PlumeField(ONE_SOURCE).pm25_ugm3((distance, cross, height)) == pytest.approx(by_hand, rel=1e-12)


def test_what_the_wind_carries_through_any_plane_is_what_the_source_emits() -> None:
    cross, height = np.meshgrid(np.linspace(-150, 150, 601), np.linspace(0, 150, 301))
    for distance in (20.0, 60.0, 100.0):
        values = PlumeField(ONE_SOURCE).pm25_ugm3(np.stack([np.full_like(cross, distance), cross, height], axis=-1))
        flux = 3.0 * np.trapezoid(np.trapezoid(values, dx=0.5, axis=1), dx=0.5)
        assert flux == pytest.approx(50_000.0, rel=0.01)


def test_upwind_there_is_only_the_background_and_the_plume_follows_the_wind() -> None:
    field = PlumeField(msgspec.structs.replace(ONE_SOURCE, background_ugm3=7.0, wind_mps=(0.0, -2.0)))
    assert field.pm25_ugm3((0.0, 30.0, 5.0)) == 7.0
    assert field.pm25_ugm3((0.0, -30.0, 5.0)) > 50.0


def test_briggs_spreads_grow_with_distance() -> None:
    sigma_y, sigma_z = briggs_urban_ab([100.0, 1000.0])
    assert sigma_y.tolist() == pytest.approx([32.0 / math.sqrt(1.04), 320.0 / math.sqrt(1.4)])
    assert sigma_z.tolist() == pytest.approx([24.0 * math.sqrt(1.1), 240.0 * math.sqrt(2.0)])


def test_a_grid_is_read_row_by_row_from_the_south_west() -> None:
    field = PlumeField(default_scene())
    grid = field.on_grid(Grid(-60.0, -60.0, 60.0, 60.0, 13, 7, 12.0))
    assert grid.shape == (7, 13)
    assert grid[1, 2] == pytest.approx(float(field.pm25_ugm3((-40.0, -40.0, 12.0))))


def test_the_default_plume_is_worth_mapping() -> None:
    grid = PlumeField(default_scene()).on_grid(Grid(-60.0, -60.0, 60.0, 60.0, 61, 61, 12.0))
    assert grid.min() < 10.0
    assert grid.max() > 60.0


def sample(seed: int, seconds: float) -> list[tuple[float, float, float]]:
    sensor = AirSensor(PlumeField(default_scene()), np.random.default_rng(seed))
    taken = []
    for barrier in range(round(seconds / 0.04)):
        taken += [(s.t_s, s.pm25_ugm3, s.sigma_ugm3) for s in sensor.sample(barrier * 0.04, (0.0, 0.0, 12.0))]
    return taken


def test_samples_come_at_irregular_seeded_instants_with_the_stated_noise() -> None:
    taken = sample(3, 2000.0)
    gaps = np.diff([t for t, _, _ in taken])
    truth = float(PlumeField(default_scene()).pm25_ugm3((0.0, 0.0, 12.0)))
    assert gaps.min() >= INTERVAL_MIN_S - 1e-9
    assert gaps.max() <= INTERVAL_MAX_S + 0.04 + 1e-9
    assert gaps.std() > 0.2
    scores = np.array([(value - truth) / sigma for _, value, sigma in taken])
    assert abs(scores.mean()) < 0.1
    assert scores.std() == pytest.approx(1.0, abs=0.08)
    assert sample(3, 20.0) == sample(3, 20.0) != sample(4, 20.0)


def test_a_counter_never_reads_below_zero() -> None:
    random = np.random.default_rng(0)
    assert min(noisy(0.0, random)[0] for _ in range(200)) == 0.0


def test_a_scene_survives_json_and_a_bad_one_says_why() -> None:
    scene = default_scene()
    assert read_scene(msgspec.json.encode(scene)) == scene
    with pytest.raises(Invalid, match="not a scene"):
        read_scene(b'{"name": 3}')
    with pytest.raises(Invalid, match="wind"):
        msgspec.structs.replace(scene, wind_mps=(0.0, 0.0))
