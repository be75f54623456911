"""A node without a kernel: it answers the facade from a script, so that doors can be tested by themselves."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence

from qaios.bridge.missions import check_document
from qaios.core.errors import Conflict, MissionInvalid, NotFound
from qaios.core.values import DeviceSpec
from qaios.schema.mission import MissionDocument, task_specs
from qaios.schema.views import (
    ArtifactView,
    AttemptView,
    CandidateView,
    DeviceView,
    EngineView,
    ErrorView,
    EventView,
    MissionReport,
    MissionView,
    NodeStatus,
    ReadingView,
    RefusalView,
    TaskView,
    WhyView,
)
from tests.bridge.fleet import CATALOGUE

CONTENT = b"the report"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
START_S = 1_760_000_000.0


class FakeNode:
    """Missions submitted here run when `let_run` is set: each task is done a second after the one before it."""

    def __init__(self, *, outcome: str = "done") -> None:
        self.outcome = outcome
        self.documents: dict[str, MissionDocument] = {}
        self.keys: dict[str, str] = {}
        self.seeds: dict[str, int | None] = {}
        self.log: list[EventView] = []
        self.let_run = asyncio.Event()
        self.let_run.set()
        self.changed = asyncio.Condition()
        self.closed = asyncio.Event()
        self.halted: list[str] = []
        self.resolved: list[tuple[str, str, bool]] = []
        self.cancelled: list[tuple[str, str | None]] = []
        self.watchers = 0
        self._runs: set[asyncio.Task[None]] = set()

    async def status(self) -> NodeStatus:
        return NodeStatus(
            version="0.1.0",
            pid=4242,
            profile="sim",
            home="/home/qai",
            url="http://127.0.0.1:7000",
            epoch=3,
            started=START_S,
            uptime_s=61.5,
            boot_s=1.25,
            boot_steps_s={"journal": 0.05, "fleet": 1.2},
            clock=START_S + 61.5,
            simulated=True,
            engines=[EngineView(name="web", state="ready"), EngineView(name="kernel", state="ready", restarts=1)],
            counts={"missions": {"running": 1, "done": 2}, "tasks": {"running": 3}, "devices": {"idle": 3, "busy": 1}},
            halted=list(self.halted),
        )

    async def catalogue(self) -> Sequence[DeviceSpec]:
        return CATALOGUE

    async def devices(self) -> Sequence[DeviceView]:
        return [
            DeviceView(name="cpu-0", driver="compute", kind="compute", state="idle", actions=["compute.call"]),
            DeviceView(
                name="drone-1",
                driver="mavlink",
                kind="drone",
                state="halted" if "drone-1" in self.halted else "busy",
                simulated=True,
                pid=777,
                actions=["drone.scan", "drone.goto"],
                running=["first-1/scan"],
                summary="A vehicle in MuJoCo",
                readings=[ReadingView(name="battery", value=0.75, unit="1", at=START_S)],
            ),
        ]

    async def missions(self) -> Sequence[MissionView]:
        return [(await self.mission(name)).model_copy(update={"tasks": []}) for name in self.documents]

    @staticmethod
    def _check(document: MissionDocument) -> None:
        if faults := check_document(document, CATALOGUE):
            raise MissionInvalid(faults)

    def _find(self, mission: str) -> str:
        named = [found for found, document in self.documents.items() if mission in (found, document.mission)]
        if not named:
            raise NotFound(f"there is no mission '{mission}'", hint="look with: qai mission ls")
        return named[-1]

    def _ended(self, mission: str) -> bool:
        return any(event.kind == "MissionEnded" and event.mission == mission for event in self.log)

    async def mission(self, mission: str) -> MissionView:
        found = self._find(mission)
        document, ended = self.documents[found], self._ended(found)
        tasks = self._tasks(document, ended)
        return MissionView(
            id=found,
            name=document.mission,
            state=self.outcome if ended else "running",
            goal=document.goal,
            owner="person:tester",
            seed=self.seeds[found],
            submitted=START_S,
            ended=START_S + len(tasks) if ended else None,
            simulated=True,
            counts={"done": len(tasks)} if ended else {"waiting": len(tasks)},
            reason="drone-1 was lost" if ended and self.outcome == "failed" else "",
            tasks=tasks,
        )

    def _tasks(self, document: MissionDocument, ended: bool) -> list[TaskView]:
        specs = sorted(task_specs(document), key=lambda spec: spec.priority)
        return [
            TaskView(
                name=spec.name,
                action=spec.action,
                device="drone-1" if ended else "",
                attempts=1 if ended else 0,
                state=self.outcome if ended else "waiting",
                priority=spec.priority,
                needs=list(spec.needs),
                submitted=START_S,
                started=START_S + index if ended else None,
                ended=START_S + index + 1 if ended else None,
                why=WhyView(
                    candidates=[
                        CandidateView(device="drone-1", score=0.9, terms={"battery": 0.75}),
                        CandidateView(device="drone-2", score=0.4),
                    ],
                    refusals=[RefusalView(device="cpu-0", reason=f"does not offer {spec.action}")],
                    waited_for=[f"task {need}" for need in spec.needs] or ["device drone-1"],
                    policy="heuristic",
                    decided=START_S,
                ),
                history=[AttemptView(number=1, device="drone-1", started=START_S + index, outcome=self.outcome)]
                if ended
                else [],
                error=ErrorView(kind="DeviceLost", message="no heartbeat", hint="look at the drone")
                if ended and self.outcome == "failed"
                else None,
                result={"value": index} if ended else None,
            )
            for index, spec in enumerate(specs)
        ]

    async def report(self, mission: str) -> MissionReport:
        view = await self.mission(mission)
        return MissionReport(
            mission=view.name,
            id=view.id,
            state=view.state,
            goal=view.goal,
            seed=view.seed,
            simulated=view.simulated,
            submitted=view.submitted,
            ended=view.ended,
            duration_s=view.ended - view.submitted if view.ended is not None else None,
            reason=view.reason,
            tasks=view.tasks,
            artifacts=[
                ArtifactView(name="report.json", sha256=SHA256, size_bytes=len(CONTENT), media_type="application/json")
            ],
            metrics={"detection_s": 1.5, "swaths_flown": 12},
        )

    async def plan(self, document: MissionDocument) -> Sequence[TaskView]:
        self._check(document)
        return [task.model_copy(update={"device": "drone-1"}) for task in self._tasks(document, False)]

    async def submit(self, document: MissionDocument, *, seed: int | None = None, key: str | None = None) -> str:
        self._check(document)
        if key is not None and key in self.keys:
            if self.documents[self.keys[key]] != document:
                raise Conflict("this key belongs to another mission", hint="use a new key")
            return self.keys[key]
        mission = f"{document.mission.replace(' ', '-')}-{len(self.documents) + 1}"
        self.documents[mission] = document
        self.seeds[mission] = seed if seed is not None else document.seed
        if key is not None:
            self.keys[key] = mission
        await self._say("MissionSubmitted", f"mission {mission} submitted", mission)
        run = asyncio.create_task(self._run(mission))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)
        return mission

    async def _run(self, mission: str) -> None:
        await self.let_run.wait()
        for spec in sorted(task_specs(self.documents[mission]), key=lambda spec: spec.priority):
            await self._say(
                "TasksFinished", f"task {spec.name} {self.outcome} on drone-1", mission, {"task": spec.name}
            )
        await self._say("MissionEnded", f"mission {mission} {self.outcome}", mission)

    async def _say(self, kind: str, text: str, mission: str = "", data: dict[str, str] | None = None) -> None:
        async with self.changed:
            number = len(self.log) + 1
            at = START_S + number
            self.log.append(EventView(sequence=number, at=at, kind=kind, text=text, mission=mission, data=data or {}))
            self.changed.notify_all()

    async def cancel(self, mission: str, task: str | None = None) -> None:
        self.cancelled.append((self._find(mission), task))

    async def watch(self, mission: str | None = None, after: int = 0) -> AsyncIterator[EventView]:
        found = self._find(mission) if mission is not None else None
        self.watchers += 1
        try:
            while True:
                for event in self.log[after:]:
                    after = event.sequence
                    if found is None or event.mission == found:
                        yield event
                    if found is not None and event.kind == "MissionEnded" and event.mission == found:
                        return
                async with self.changed:
                    if len(self.log) <= after:
                        await self.changed.wait()
        finally:
            self.watchers -= 1

    async def resolve(self, mission: str, task: str, *, happened: bool) -> None:
        view = await self.mission(mission)
        if task not in {one.name for one in view.tasks}:
            raise NotFound(f"mission {mission} has no task {task}")
        self.resolved.append((view.id, task, happened))

    async def events(self, after: int = 0, limit: int = 1000) -> Sequence[EventView]:
        return self.log[after : after + limit]

    async def artifact(self, sha256: str) -> bytes:
        if sha256 != SHA256:
            raise NotFound(f"there is no artifact {sha256}", hint="the report lists them")
        return CONTENT

    async def halt(self, device: str | None = None) -> Sequence[str]:
        names = [spec.name for spec in CATALOGUE]
        if device is not None and device not in names:
            raise NotFound(f"there is no device '{device}'", hint="look with: qai devices")
        now = [device] if device is not None else names
        self.halted.extend(now)
        return now

    async def release(self, device: str) -> None:
        if device not in self.halted:
            raise Conflict(f"{device} is not halted", hint="nothing to do")
        self.halted.remove(device)

    async def shutdown(self) -> None:
        self.closed.set()
