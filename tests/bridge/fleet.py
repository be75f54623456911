"""A small fleet's catalogue, as missions are checked against it."""

from __future__ import annotations

from qaios.core.values import ActionSpec, DeviceSpec, Effect

CALL = ActionSpec(
    name="compute.call",
    summary="Call a Python function",
    batched=True,
    parameters={"call": "module:function", "args": "list of arguments", "kwargs": "named arguments", "path": "folders"},
    required=("call",),
)
SAMPLE = ActionSpec(
    name="quantum.sample",
    summary="Run a circuit",
    effect=Effect.EFFECTFUL,
    quantum=True,
    parameters={"circuit": "OpenQASM text", "shots": "how many"},
    required=("circuit",),
)
OPTIMIZE = ActionSpec(
    name="quantum.optimize", summary="Solve a QUBO", quantum=True, parameters={"problem": "QUBO"}, required=("problem",)
)
SCAN = ActionSpec(name="drone.scan", summary="Look around", effect=Effect.EFFECTFUL)
GOTO = ActionSpec(
    name="drone.goto",
    summary="Fly there",
    effect=Effect.EFFECTFUL,
    parameters={"to": "lat, lon in degrees", "altitude_m": "above ground, m"},
    required=("to",),
)
GATHER = ActionSpec(
    name="drone.sample",
    summary="Sample the air",
    effect=Effect.EFFECTFUL,
    parameters={"at": "where", "count": "how many", "note": "text", "tag": "text"},
    required=("at",),
)
HOME = ActionSpec(name="drone.home", summary="Fly home", effect=Effect.EFFECTFUL)
UPLOAD = ActionSpec(
    name="hub.upload", summary="Send to the hub", effect=Effect.EFFECTFUL, parameters={"content": "what"}, required=()
)

CATALOGUE = (
    DeviceSpec(name="cpu-0", driver="compute", kind="compute", actions=(CALL,), capacity=2),
    DeviceSpec(name="aer-0", driver="aer", kind="qpu", actions=(SAMPLE, OPTIMIZE), simulated=True),
    DeviceSpec(name="drone-1", driver="mavlink", kind="drone", actions=(SCAN, GOTO, GATHER, HOME), simulated=True),
    DeviceSpec(name="hub", driver="hub", kind="hub", actions=(UPLOAD,)),
)
