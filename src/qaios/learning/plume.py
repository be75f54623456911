"""From the samples of a survey to a map of the pollution at one moment, beside the plain ways of making one.

Called by the driver `liquid` in its worker. Three steps: a steady field is fitted (`field`); a liquid network, or
its gated rival, is trained on the stream of samples to say how the plume is displaced at each moment (`motion`);
field and displacement are read together on the grid at the asked time and height.

Honesty is built in. Whole pieces of track are held out twice, once to choose epoch and cell, once for the figures.
The baselines get the learning *and* the choosing pieces. The truth, when a simulated world gives it, is read after
the map is made. Errors are root mean square over the spread (standard deviation) of what is compared with: 1.0 is
what the mean alone would score. Whoever wins is named.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qaios.core.errors import Invalid
from qaios.learning import baselines, motion
from qaios.learning.field import Field, fit
from qaios.learning.liquid import LiquidCell
from qaios.learning.network import Array, MakeCell, Network, pack
from qaios.learning.recurrent import GruCell
from qaios.learning.samples import Samples, hold_out, read
from qaios.learning.training import Adam, Checkpoint, clip

CELLS: dict[str, MakeCell] = {"liquid": LiquidCell, "gru": GruCell}
BASELINES: dict[str, Callable[[Samples, Array], Array]] = {"linear": baselines.linear, "kriging": baselines.kriging}
BASELINE = "linear"

EPOCHS = 150
EPOCHS_MAX = 2000
REHEARSED_SHARE = 0.7  # of the epochs
REHEARSED_MOMENTS = 640
REFITS = 3
UNITS = 12
RATE = 8e-3
DECAY = 1e-3
GRADIENT_MAX = 1.0
SHYNESS = 0.3  # price of a displacement: the plume stands still unless the samples say otherwise
HIDDEN_SHARE, HIDDEN_S = 0.2, 15.0  # in each epoch, so that the network learns to speak about where it is blind
FOLDS, TRUSTS = 5, (0.0, 0.25, 0.5, 0.75, 1.0)
HELD_OUT_SHARE = 0.12
POINTS_MAX = 40_000


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of `ai.map`, checked."""

    samples: Samples
    east_m: Array
    north_m: Array
    at_s: float
    height_m: float
    cells: tuple[str, ...]
    epochs: int
    seed: int
    truth: Array | None  # (rows, columns) on the map's own grid

    @property
    def places_m(self) -> Array:
        """Every point of the map, row by row from the south-west; shape (rows * columns, 3)."""
        east, north = np.meshgrid(self.east_m, self.north_m)
        return np.column_stack([east.ravel(), north.ravel(), np.full(east.size, self.height_m)])


@dataclass(frozen=True, slots=True)
class Trained:
    """One network and the field it speaks about, at its best epoch."""

    network: Network
    field: Field
    frame: motion.Frame
    epoch: int  # of listening
    best_epoch: int
    error: float  # on the choosing pieces
    trust: float = 1.0  # how much of what the network says is believed, 0..1


def map_plume(arguments: Mapping[str, Any]) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Yield progress (`fraction`, `note`), return the value of `ai.map` with the files under `files`.

    Raises `Invalid` for arguments that make no map.
    """
    request = check(arguments)
    samples = request.samples
    random = np.random.default_rng(request.seed)
    role = hold_out(samples, HELD_OUT_SHARE, random)
    learning = role == 0
    yield {"fraction": 0.05, "note": f"{len(samples)} samples on {samples.track.max() + 1} tracks"}
    steady = fit(samples.part(learning))
    rivals: dict[str, Trained] = {}
    for number, cell in enumerate(request.cells):
        for trained in train(
            cell, steady, samples, role, request.epochs, np.random.default_rng([request.seed, number])
        ):
            if isinstance(trained, Trained):
                rivals[cell] = trained
            else:
                done = (number + trained["fraction"]) / len(request.cells)
                yield {"fraction": round(0.1 + 0.7 * done, 3), "note": f"{cell}: {trained['note']}"}
    chosen = min(rivals, key=lambda cell: rivals[cell].error)
    yield {"fraction": 0.85, "note": f"{chosen} chosen by validation; drawing the map and the baselines"}
    held_out = _held_out_errors(rivals[chosen], samples, role)
    still = fit(samples)
    drawn, field = network_map(rivals[chosen], still, request)
    maps = {"network": drawn, "still_field": still.value(request.places_m)}
    maps |= {name: method(samples, request.places_m) for name, method in BASELINES.items()}
    value = _value(request, rivals, chosen, maps, held_out)
    return value | {"files": {"model": _model_file(request, rivals[chosen], field, value, role)}}


def train(
    cell: str, steady: Field, samples: Samples, role: NDArray[np.int64], epochs: int, random: np.random.Generator
) -> Generator[dict[str, Any] | Trained, None, None]:
    """Yield progress and at last a `Trained`. Learns from role 0, chooses its epoch by role 1, never uses role 2.

    The first epochs are a rehearsal: the same flight through the fitted field under invented swings of the wind, a
    new one each time, so that the network learns to tell a swing from noise before it hears the real samples.
    """
    network = Network(CELLS[cell](motion.FEATURES, UNITS, random), motion.OUTPUTS, random, readout_gain=0.05)
    frame = motion.frame_of(steady, samples.part(role == 0))
    rehearsals = round(REHEARSED_SHARE * epochs)
    for epoch in rehearse(network, steady, samples, frame, rehearsals, random):
        if epoch % 10 == 0:
            yield {"fraction": epoch / epochs, "note": f"rehearsal {epoch} of {rehearsals}"}
    for trained in _listen(network, steady, samples, frame, role, epochs - rehearsals, random):
        if trained.epoch % 10 == 0 or trained.epoch == epochs - rehearsals:
            note = f"epoch {rehearsals + trained.epoch} of {epochs}, best error {trained.error:.3f}"
            yield {"fraction": (rehearsals + trained.epoch) / epochs, "note": note}
    yield replace(trained, trust=_trust(trained, samples, role < 2, random))


def _trust(trained: Trained, samples: Samples, known: NDArray[np.bool_], random: np.random.Generator) -> float:
    """How much of what the network says makes the best guess where it is blind, from 0 (the air stands still) to 1.

    Every known piece of track is hidden once and guessed, so the choice rests on all known samples, and on no others.
    """
    stream = motion.stream_of(samples, trained.field, gap_unit_s(samples))
    turn = random.permutation(FOLDS)[_piece(samples) % FOLDS]
    said = np.zeros((len(samples), motion.OUTPUTS))
    for fold in range(FOLDS):
        said[turn == fold] = motion.say(trained.network, stream, known & (turn != fold))[turn == fold]
    cost = {}
    for trust in TRUSTS:
        guess = motion.predict(trained.field, trust * said, samples.at_m, trained.frame)
        cost[trust] = _rms(((guess - samples.pm25) / samples.sigma)[known])
    return min(cost, key=lambda trust: (cost[trust], trust))


def rehearse(
    network: Network, steady: Field, samples: Samples, frame: motion.Frame, epochs: int, random: np.random.Generator
) -> Generator[int, None, None]:
    """Train on invented swings. Every epoch takes a stretch of the flight, so a long survey costs no more."""
    adam, unit_s = Adam(rate=RATE, decay=DECAY), gap_unit_s(samples)
    for epoch in range(1, epochs + 1):
        first = int(random.integers(0, max(1, len(samples) - REHEARSED_MOMENTS + 1)))
        stretch = samples.part(np.arange(len(samples)) >= first)
        stretch = stretch.part(np.arange(len(stretch)) < REHEARSED_MOMENTS)
        measured, clean = motion.imagined(steady, stretch, frame, random)
        stream, seen = motion.stream_of(measured, steady, unit_s), ~_hidden(stretch, random)
        _, gradients = motion.learn(network, stream, steady, clean, frame, seen, np.ones_like(seen), 0.0)
        clip(gradients, GRADIENT_MAX)
        adam.step(network.parameters, gradients)
        yield epoch


def _listen(
    network: Network,
    field: Field,
    samples: Samples,
    frame: motion.Frame,
    role: NDArray[np.int64],
    epochs: int,
    random: np.random.Generator,
) -> Generator[Trained, None, None]:
    """Train on the real samples, refitting the field to where the network says they belong; yield the best so far.

    What the rehearsal left is a candidate too, so that real samples can only make it better on the choosing pieces.
    """
    adam, best, kept = Adam(rate=RATE / 4.0, decay=DECAY), Checkpoint(), field
    stream, learning, choosing = motion.stream_of(samples, field, gap_unit_s(samples)), role == 0, role == 1
    spread, refit_every = _spread(samples.pm25), max(1, epochs // (REFITS + 1))
    number = 0
    for epoch in range(1, epochs + 1):
        said = motion.say(network, stream, learning)
        if epoch % refit_every == 0:
            places, louder = motion.displaced(said, samples.at_m, frame)
            field = field.refitted(samples.part(learning), places[learning], louder[learning])
        guess = motion.predict(field, said, samples.at_m, frame)
        if best.offer(network, _rms((guess - samples.pm25)[choosing]) / spread, epoch):
            kept, number = field, epoch
        seen = learning & ~_hidden(samples, random)
        _, gradients = motion.learn(network, stream, field, samples, frame, seen, learning, SHYNESS)
        clip(gradients, GRADIENT_MAX)
        adam.step(network.parameters, gradients)
        if epoch == epochs:
            best.restore(network)
        yield Trained(network, kept, frame, epoch, number, best.error)


def network_map(trained: Trained, still: Field, request: Request) -> tuple[Array, Field]:
    """The map at the asked moment and the field it is read from; `still` is the steady field of all samples."""
    samples = request.samples
    field, _ = _refitted(trained, still, samples, np.ones(len(samples), dtype=np.bool_))
    heard = samples.t_s <= request.at_s
    heard[0] = True
    moment = _with_moment(samples.part(heard), request.at_s)
    seen = np.arange(len(moment)) < len(moment) - 1
    stream = motion.stream_of(moment, trained.field, gap_unit_s(samples))
    said = trained.trust * motion.say(trained.network, stream, seen)[-1]
    places = request.places_m
    return motion.predict(field, np.repeat(said[None], len(places), axis=0), places, trained.frame), field


def gap_unit_s(samples: Samples) -> float:
    """Mean time between two samples of the fleet, the unit of the network's gaps."""
    return max(float(np.ptp(samples.t_s)) / max(1, len(samples) - 1), 1e-3)


def _refitted(trained: Trained, still: Field, samples: Samples, known: NDArray[np.bool_]) -> tuple[Field, Array]:
    """(`still` with its weights fitted to where the network says the known samples belong, what it says)."""
    stream = motion.stream_of(samples, trained.field, gap_unit_s(samples))
    said = trained.trust * motion.say(trained.network, stream, known)
    places, louder = motion.displaced(said, samples.at_m, trained.frame)
    return still.refitted(samples.part(known), places[known], louder[known]), said


def _with_moment(samples: Samples, at_s: float) -> Samples:
    """The stream with one more moment, at which nothing was measured."""
    return Samples(
        np.append(samples.t_s, max(at_s, samples.t_s[-1])),
        np.vstack([samples.at_m, samples.at_m[-1]]),
        np.append(samples.pm25, 0.0),
        np.append(samples.sigma, 1.0),
        np.append(samples.track, -1),
    )


def _hidden(samples: Samples, random: np.random.Generator) -> NDArray[np.bool_]:
    """Some pieces of track, fifteen seconds each, in which the network hears nothing in this epoch."""
    piece = _piece(samples)
    hidden: NDArray[np.bool_] = (random.random(int(piece.max()) + 1) < HIDDEN_SHARE)[piece]
    return hidden


def _piece(samples: Samples) -> NDArray[np.int64]:
    """A number for every fifteen seconds of every track, shape (count,)."""
    label = samples.track * 100_000 + ((samples.t_s - samples.t_s[0]) // HIDDEN_S).astype(np.int64)
    return np.unique(label, return_inverse=True)[1].astype(np.int64)


def _held_out_errors(trained: Trained, samples: Samples, role: NDArray[np.int64]) -> dict[str, Any]:
    """Every method on the pieces none has seen, each with all the others to learn from."""
    known, asked = role < 2, role == 2
    still = fit(samples.part(known))
    field, said = _refitted(trained, still, samples, known)
    guesses = {
        "network": motion.predict(field, said, samples.at_m, trained.frame)[asked],
        "still_field": still.value(samples.at_m[asked]),
        **{name: method(samples.part(known), samples.at_m[asked]) for name, method in BASELINES.items()},
    }
    measured = samples.pm25[asked]
    spread = _spread(samples.pm25)
    errors = {name: round(_rms(guess - measured) / spread, 5) for name, guess in guesses.items()}
    return {
        "samples": int(asked.sum()),
        "spread_ug_m3": round(spread, 4),
        "noise_floor": round(_rms(samples.sigma[asked]) / spread, 5),
        "errors": errors,
    }


def _value(
    request: Request,
    rivals: Mapping[str, Trained],
    chosen: str,
    maps: Mapping[str, Array],
    held_out: dict[str, Any],
) -> dict[str, Any]:
    errors: dict[str, float] = {name: held_out["errors"][name] for name in maps}
    against = "held-out samples"
    if request.truth is not None:
        against = "truth"
        spread = _spread(request.truth)
        errors = {name: round(_rms(drawn - request.truth.ravel()) / spread, 5) for name, drawn in maps.items()}
    best = rivals[chosen]
    names = {"network": chosen}
    winner = min(errors, key=lambda name: errors[name])
    rows = (len(request.north_m), len(request.east_m))
    drawn = np.round(maps["network"].reshape(rows), 4)
    return {
        "map": {
            "east_m": request.east_m.tolist(),
            "north_m": request.north_m.tolist(),
            "pm25_ug_m3": drawn.tolist(),
            "at_s": request.at_s,
            "height_m": request.height_m,
        },
        "plume_error": errors["network"],
        "baseline_error": errors[BASELINE],
        "baseline": BASELINE,
        "errors": {names.get(name, name): error for name, error in errors.items()},
        "errors_against": against,
        "winner": names.get(winner, winner),
        "heldout": held_out,
        "cell": chosen,
        "validation": {cell: round(trained.error, 5) for cell, trained in rivals.items()},
        "parameters": best.network.size,
        "epochs": request.epochs,
        "best_epoch": best.best_epoch,
        "trust": best.trust,
        "samples": len(request.samples),
        "seed": request.seed,
    }


def _model_file(
    request: Request, best: Trained, field: Field, value: Mapping[str, Any], role: NDArray[np.int64]
) -> bytes:
    """Network and field, enough to draw the map again; everything that made them is named in the manifest."""
    arrays = {
        **best.network.parameters,
        "field.bells_m": field.bells_m,
        "field.weights": field.weights,
        "field.shape": np.array(astuple(field.shape)),
    }
    manifest = {
        "purpose": "displacement of a steady plume from a stream of air samples",
        "cell": value["cell"],
        "features": motion.FEATURES,
        "units": UNITS,
        "outputs": motion.OUTPUTS,
        "gap_unit_s": gap_unit_s(request.samples),
        "floor_ug_m3": field.floor,
        "data_sha256": request.samples.sha256,
        "samples": dict(zip(("learned", "chose", "tested"), np.bincount(role, minlength=3).tolist(), strict=True)),
        "seed": request.seed,
        "best_epoch": best.best_epoch,
        "trust": best.trust,
        "frame": {"heart_m": best.frame.heart_m.tolist(), "extent_m": best.frame.extent_m},
        "heldout": value["heldout"],
    }
    return pack(arrays, manifest)


def check(arguments: Mapping[str, Any]) -> Request:
    """Read the arguments of `ai.map`. Raises `Invalid` saying which, what and what to do."""
    samples = read(arguments.get("samples", ()))
    truth = arguments.get("truth")
    east_m, north_m = _grid(arguments, truth, samples)
    cell = str(arguments.get("cell", "liquid"))
    if cell not in (*CELLS, "auto"):
        raise Invalid(f"cell is {cell!r}", hint=f"Give one of {', '.join(CELLS)}, or auto to let validation choose.")
    epochs = int(_number(arguments, "epochs", EPOCHS))
    if not 1 <= epochs <= EPOCHS_MAX:
        raise Invalid(f"epochs is {epochs}, it must be from 1 to {EPOCHS_MAX}")
    given = truth if isinstance(truth, Mapping) else {}
    lowest = float(np.min(samples.at_m[:, 2]))
    return Request(
        samples=samples,
        east_m=east_m,
        north_m=north_m,
        at_s=_number(arguments, "at_s", float(samples.t_s[-1])),
        height_m=_number(arguments, "height_m", float(given.get("height_m", lowest))),
        cells=tuple(CELLS) if cell == "auto" else (cell,),
        epochs=epochs,
        seed=int(_number(arguments, "seed", 0)),
        truth=None if truth is None else _truth(truth, east_m, north_m),
    )


def _grid(arguments: Mapping[str, Any], truth: Any, samples: Samples) -> tuple[Array, Array]:
    if isinstance(truth, Mapping) and {"east_m", "north_m"} <= set(truth) and arguments.get("area") is None:
        axes = [np.asarray(truth[axis], dtype=np.float64) for axis in ("east_m", "north_m")]
    else:
        step = _number(arguments, "step_m", 4.0)
        low, high = samples.at_m[:, :2].min(axis=0), samples.at_m[:, :2].max(axis=0)
        area = arguments.get("area") or {"west_m": low[0], "south_m": low[1], "east_m": high[0], "north_m": high[1]}
        sides = [_number(area, side, np.nan) for side in ("west_m", "east_m", "south_m", "north_m")]
        if not (np.isfinite(sides).all() and sides[0] < sides[1] and sides[2] < sides[3] and step > 0.0):
            raise Invalid(
                f"area {dict(area)} with step_m {step} is no grid",
                hint="Give area: {west_m, south_m, east_m, north_m} in metres and step_m > 0.",
            )
        axes = [np.arange(a, b + step / 2.0, step) for a, b in (sides[:2], sides[2:])]
    if axes[0].size * axes[1].size > POINTS_MAX:
        raise Invalid(
            f"the map has {axes[0].size * axes[1].size} points, at most {POINTS_MAX} are drawn", hint="Raise step_m."
        )
    return axes[0], axes[1]


def _truth(truth: Any, east_m: Array, north_m: Array) -> Array:
    if not isinstance(truth, Mapping) or "pm25_ug_m3" not in truth:
        raise Invalid("truth needs pm25_ug_m3, rows from south to north", hint="truth: {east_m, north_m, pm25_ug_m3}")
    values = np.asarray(truth["pm25_ug_m3"], dtype=np.float64)
    axes = [
        np.asarray(truth.get(axis, own), dtype=np.float64) for axis, own in (("east_m", east_m), ("north_m", north_m))
    ]
    if values.shape != (axes[1].size, axes[0].size):
        raise Invalid(f"truth has shape {values.shape}, its axes say {(axes[1].size, axes[0].size)}")
    if np.array_equal(axes[0], east_m) and np.array_equal(axes[1], north_m):
        return values
    from scipy.interpolate import RegularGridInterpolator

    east, north = np.meshgrid(east_m, north_m)
    drawn = RegularGridInterpolator((axes[1], axes[0]), values, bounds_error=False, fill_value=None)
    return np.asarray(drawn(np.column_stack([north.ravel(), east.ravel()])), dtype=np.float64).reshape(north.shape)


def _number(arguments: Mapping[str, Any], name: str, default: float) -> float:
    value = arguments.get(name)
    if value is None:
        return float(default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise Invalid(f"{name} is {value!r}, a finite number is needed")
    return float(value)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _spread(values: Array) -> float:
    return max(float(np.std(values)), 1e-9)
