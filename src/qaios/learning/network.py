"""What every recurrent network here has in common: the contract of a cell, the linear readout, the file it is kept in.

A `Cell` turns a batch of sequences with irregular time gaps into states, and can walk the same road back to give
the gradient of anything computed from those states. `Network` puts a linear readout on a cell. Nothing here knows
what the numbers mean: `plume` gives them meaning, `training` improves them, and both go through this contract, so
that a liquid cell and a gated one compete under equal rules.

Shapes are time first: inputs (steps, batch, features), gaps (steps, batch), states (steps, batch, units). All float64.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qaios.core.errors import Invalid

Array = NDArray[np.float64]
Parameters = dict[str, Array]

FORMAT = "qaios.network/1"


class Cell(Protocol):
    """One recurrent cell. `parameters` are changed in place by the optimiser."""

    kind: str
    features: int
    units: int
    parameters: Parameters

    def run(self, inputs: Array, gaps: Array, state: Array | None = None) -> Any:
        """Return the tape of a forward run from `state` (batch, units), zeros when not given."""

    def gradients(self, tape: Any, of_states: Array) -> tuple[Parameters, Array]:
        """From dL/d(states) to (dL/d(parameters), dL/d(first state))."""


def weights(random: np.random.Generator, rows: int, columns: int, gain: float = 1.0) -> Array:
    """Glorot-uniform start (Glorot & Bengio 2010), which keeps the variance of states level through depth."""
    limit = gain * np.sqrt(6.0 / (rows + columns))
    return random.uniform(-limit, limit, size=(rows, columns))


def sigmoid(argument: Array) -> Array:
    """Logistic function; arguments beyond ±30 are clipped, where exp would overflow and nothing changes any more."""
    clipped: Array = 1.0 / (1.0 + np.exp(-np.clip(argument, -30.0, 30.0)))
    return clipped


MakeCell = Callable[[int, int, np.random.Generator], Cell]


class Network:
    """A cell with a linear readout: outputs = states @ V + c."""

    def __init__(self, cell: Cell, outputs: int, random: np.random.Generator, *, readout_gain: float = 1.0) -> None:
        self.cell = cell
        self.outputs = outputs
        self.readout: Parameters = {
            "readout.V": weights(random, cell.units, outputs, readout_gain),
            "readout.c": np.zeros(outputs),
        }

    @property
    def parameters(self) -> Parameters:
        """Every parameter by name; the arrays are the network's own, so changing them changes the network."""
        return {**{f"cell.{name}": value for name, value in self.cell.parameters.items()}, **self.readout}

    @property
    def size(self) -> int:
        """How many numbers it has learned."""
        return sum(value.size for value in self.parameters.values())

    def run(self, inputs: Array, gaps: Array, state: Array | None = None) -> tuple[Array, Any]:
        """Outputs (steps, batch, outputs), and the tape for `gradients`."""
        tape = self.cell.run(inputs, gaps, state)
        return tape.states @ self.readout["readout.V"] + self.readout["readout.c"], tape

    def gradients(self, tape: Any, of_outputs: Array) -> Parameters:
        """Back through readout and time, from dL/d(outputs) to dL/d(every parameter)."""
        of_cell, _ = self.cell.gradients(tape, of_outputs @ self.readout["readout.V"].T)
        flat = tape.states.reshape(-1, self.cell.units)
        errors = of_outputs.reshape(-1, self.outputs)
        return {
            **{f"cell.{name}": value for name, value in of_cell.items()},
            "readout.V": flat.T @ errors,
            "readout.c": errors.sum(axis=0),
        }

    def copy_parameters(self) -> Parameters:
        return {name: value.copy() for name, value in self.parameters.items()}

    def set_parameters(self, parameters: Mapping[str, Array]) -> None:
        """Take over values by name. Raises `Invalid` when a name or a shape does not belong to this network."""
        own = self.parameters
        if set(own) != set(parameters):
            raise Invalid(f"these are not this network's parameters: {sorted(set(own) ^ set(parameters))}")
        for name, value in parameters.items():
            if own[name].shape != value.shape:
                raise Invalid(f"parameter {name} has shape {value.shape}, this network needs {own[name].shape}")
            own[name][...] = value


def pack(arrays: Mapping[str, NDArray[Any]], manifest: Mapping[str, Any]) -> bytes:
    """One self-describing npz: the arrays and a JSON manifest.

    The same content gives the same bytes, so the file can be addressed by its hash.
    """
    described = {
        **manifest,
        "format": FORMAT,
        "arrays": {name: {"shape": list(a.shape), "sha256": _digest(a)} for name, a in sorted(arrays.items())},
    }
    text = json.dumps(described, sort_keys=True, separators=(",", ":"), allow_nan=False)
    buffer = io.BytesIO()
    ordered = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    np.savez_compressed(buffer, manifest=np.frombuffer(text.encode(), dtype=np.uint8), **ordered)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(content: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `pack` wrote: (arrays, manifest). Never unpickles.

    Raises `Invalid` when it is not such a file or was changed.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        manifest: dict[str, Any] = json.loads(arrays.pop("manifest").tobytes())
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise Invalid(
            f"this is not a network file: {error}", hint="give a file written by qaios.learning.network.pack"
        ) from error
    if manifest.get("format") != FORMAT:
        raise Invalid(f"network file of format {manifest.get('format')!r}, this version reads {FORMAT!r}")
    told = {name: entry["sha256"] for name, entry in manifest["arrays"].items()}
    found = {name: _digest(array) for name, array in arrays.items()}
    if told != found:
        wrong = sorted(name for name in told.keys() | found.keys() if told.get(name) != found.get(name))
        raise Invalid(f"network file was changed after it was written: {', '.join(wrong)}")
    return arrays, manifest


def save(network: Network, manifest: Mapping[str, Any]) -> bytes:
    """A network as content-addressed bytes; `manifest` adds what it was trained on, its units and its figures."""
    cell = network.cell
    shape = {"cell": cell.kind, "features": cell.features, "units": cell.units, "outputs": network.outputs}
    return pack(network.parameters, {**manifest, **shape})


def load(
    content: bytes, cells: Mapping[str, Callable[[int, int, np.random.Generator], Cell]]
) -> tuple[Network, dict[str, Any]]:
    """The network and its manifest. `cells` names the kinds that may be made. Raises `Invalid` for anything else."""
    arrays, manifest = unpack(content)
    make = cells.get(str(manifest.get("cell")))
    if make is None:
        raise Invalid(f"cell of kind {manifest.get('cell')!r}, known are {', '.join(sorted(cells))}")
    random = np.random.default_rng(0)  # overwritten at once by the stored values
    network = Network(make(int(manifest["features"]), int(manifest["units"]), random), int(manifest["outputs"]), random)
    network.set_parameters({name: array for name, array in arrays.items() if name in network.parameters})
    return network, manifest


def _digest(array: NDArray[Any]) -> str:
    plain = np.ascontiguousarray(array)
    return hashlib.sha256(f"{plain.dtype.str}{plain.shape}".encode() + plain.tobytes()).hexdigest()
