"""The learning device: trains a liquid network here and now on the samples of a survey, and draws the plume.

    ai.map   samples [[t_s, east_m, north_m, up_m, pm25_ug_m3, sigma_ug_m3], …], area, step_m, at_s, height_m, …
             →  the map, the network's error and the baselines' beside it, the model, the map as a file, a picture

All the learning is `qaios.learning` in one killable worker process with one thread, so that the same seed gives the
same map; nothing heavy is imported here. It is real training, not a simulation of it. Training leaves no trace in the
world: a crash loses only time, so `recall` says `Never` for what this process does not remember and it runs again.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from qaios.bridge.references import is_reference
from qaios.contracts import Attempt, Device, Driver, Isolation, Site
from qaios.core.errors import DeviceFault, Invalid, Refused
from qaios.core.values import (
    ActionSpec,
    DeviceSpec,
    DeviceStatus,
    Estimate,
    HaltRecipe,
    Reading,
    Recall,
    Result,
    Shape,
    SignalHalt,
    Task,
    Unit,
)
from qaios.drivers.once import Once
from qaios.drivers.worker import Worker

MAP = ActionSpec(
    name="ai.map",
    summary="Train on air samples and draw the map of the plume, with the errors of the network and of plain methods.",
    parameters={
        "samples": "rows [t_s, east_m, north_m, up_m, pm25_ug_m3, sigma_ug_m3], nested in lists as they come",
        "area": "{west_m, south_m, east_m, north_m} of the map; the bounds of truth or samples when not given",
        "step_m": "distance between two points of the map, metres (4)",
        "at_s": "the moment of the map, on the clock of the samples; the last sample when not given",
        "height_m": "height of the map above ground, metres; that of truth or the lowest sample when not given",
        "truth": "{east_m, north_m, pm25_ug_m3: rows from the south}: only compared with, never learned from",
        "cell": "liquid, gru, or auto to train both and let validation choose (liquid)",
        "epochs": "work of the training, 1 to 2000 (150)",
        "seed": "of all chance in the training; drawn from the mission's seed when not given",
        "title": "the headline of the picture",
        "picture": "false: draw none (true)",
    },
    required=("samples",),
)
FUNCTION = "qaios.learning.mapping:map_task"
CELLS = ("liquid", "gru", "auto")
EPOCHS = 150
# Measured on one core: imports, field, baselines and picture, and then each epoch of each cell.
START_S = 2.5
PER_EPOCH_S = 0.013
PER_EPOCH_AND_SAMPLE_S = 6e-6
SAMPLES_UNKNOWN = 500  # taken when the samples are still a reference to a flight that has not happened


@dataclass(frozen=True, slots=True, kw_only=True)
class LiquidConfig:
    name: str = "liquid-1"


class Liquid:
    """Implements `Device`: one training at a time."""

    def __init__(self, config: LiquidConfig, site: Site) -> None:
        self._spec = DeviceSpec(
            name=config.name,
            driver="liquid",
            kind="model",
            actions=(MAP,),
            capacity=1,
            simulated=False,
            summary="Liquid network (closed-form continuous-time, arXiv 2106.13898) trained in numpy on this machine",
        )
        self._site = site
        self._worker = Worker(config.name, environment={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
        self._once = Once(kept_max=64)
        self._open = False
        self._halts = 0
        self._done = 0

    @property
    def spec(self) -> DeviceSpec:
        return self._spec

    async def __aenter__(self) -> Self:
        self._open = True  # the worker starts with the first task: learning may never be asked for
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._open = False
        self._worker.kill()
        await self._once.close()
        await self._worker.stop()

    def status(self) -> DeviceStatus:
        return DeviceStatus(pid=self._worker.pid)

    def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
        return [_estimate(shape) for shape in shapes]

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        if fault := _fault(task.action, task.arguments):
            raise Refused(fault, hint=f"{MAP.name} takes {', '.join(MAP.parameters)}.")
        if not self._open:
            raise DeviceFault(f"{self._spec.name} is not open")
        self._once.admit(attempt.epoch)
        return await self._once.run(attempt.key, lambda: self._train(task, attempt))

    async def _train(self, task: Task, attempt: Attempt) -> Result:
        arguments = dict(task.arguments)
        if arguments.get("seed") is None:
            arguments["seed"] = attempt.random.getrandbits(31)
        halts = self._halts
        try:
            answer = await self._worker.call(
                FUNCTION, arguments, lambda chunk: attempt.progress(chunk["fraction"], chunk["note"])
            )
        except Invalid as error:
            raise Refused(str(error), hint=error.hint) from error
        except DeviceFault as error:
            if self._halts != halts:
                raise DeviceFault(f"{self._spec.name} was halted while training") from error
            raise
        artifacts = tuple(
            attempt.artifacts.put(file["name"], file["content"], file["media_type"]) for file in answer["artifacts"]
        )
        self._done += 1
        return Result(answer["value"], artifacts, answer["provenance"])

    async def halt(self) -> None:
        self._halts += 1
        self._worker.kill()

    def halt_recipes(self) -> Sequence[HaltRecipe]:
        """One signal while there is a worker; without one there is nothing to stop."""
        pid = self._worker.pid
        kill = getattr(signal, "SIGKILL", signal.SIGTERM)
        return [] if pid is None else [SignalHalt(pid, kill, self._worker.started_s)]

    async def observe(self) -> Sequence[Reading]:
        now_s = self._site.clock.now_s()
        return [
            Reading("learning.busy", float(self._once.busy), Unit.ONE, now_s),
            Reading("learning.maps_done", float(self._done), Unit.ONE, now_s),
        ]

    async def recall(self, key: str) -> Recall:
        return self._once.recall(key)


def _estimate(shape: Shape) -> Estimate:
    """Work is counted, not timed, so the duration follows from samples and epochs."""
    if fault := _fault(shape.action, shape.form):
        return Estimate(duration_s=0.0, refusal=fault)
    epochs = _number(shape.form.get("epochs"), EPOCHS)
    cells = 2 if shape.form.get("cell") == "auto" else 1
    samples = _count(shape.form["samples"])
    training_s = cells * epochs * (PER_EPOCH_S + PER_EPOCH_AND_SAMPLE_S * samples)
    return Estimate(
        duration_s=START_S + training_s,
        terms={"start_s": START_S, "training_s": training_s, "samples": float(samples), "epochs": float(epochs)},
    )


def _fault(action: str, arguments: Mapping[str, Any]) -> str:
    """Why this will not be taken, from what can be seen before references are resolved; "" when it will."""
    if action != MAP.name:
        return f"this device does {MAP.name}, not {action}"
    if "samples" not in arguments:
        return f"{MAP.name} needs samples"
    if unknown := sorted(set(arguments) - set(MAP.parameters)):
        return f"{MAP.name} has no argument {', '.join(unknown)}"
    cell = arguments.get("cell")
    if cell is not None and cell not in CELLS and not is_reference(cell):
        return f"cell is {cell!r}, not one of {', '.join(CELLS)}"
    return ""


def _number(value: Any, default: int) -> int:
    return int(value) if isinstance(value, int | float) else default


def _count(samples: Any) -> int:
    """How many rows, however nested; a reference stands for a usual flight."""
    if isinstance(samples, Mapping):
        return _count(samples.get("samples", ()))
    if isinstance(samples, Sequence) and not isinstance(samples, str | bytes):
        if samples and isinstance(samples[0], int | float):
            return 1
        return sum(map(_count, samples))
    return SAMPLES_UNKNOWN


def _devices(config: LiquidConfig, site: Site) -> Sequence[Device]:
    return [Liquid(config, site)]


DRIVER = Driver(
    name="liquid",
    summary="Maps pollution with a liquid network trained on this machine",
    config=LiquidConfig,
    devices=_devices,
    isolation=Isolation.PROCESS,
)
