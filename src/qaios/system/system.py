"""One node: the facade that every door talks to, and the only place that knows concretes.

    async with System.boot(Settings.load(profile="sim")) as system:
        mission = await system.submit(document, seed=7)
        async for event in system.watch(mission): ...

Booting opens the journal, replays it, takes over what was under way and starts the engines (the kernel's loop, the
doors). Leaving the block closes in the opposite order. When the journal breaks, the node ends: `watch`, `finish`
and the block itself raise `JournalBroken`.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec

import qaios
from qaios.bridge.missions import check_document
from qaios.contracts import Engine, Site
from qaios.core import events as ev
from qaios.core.errors import Conflict, JournalBroken, MissionInvalid, NotFound
from qaios.core.machine import MissionRecord
from qaios.core.values import DeviceSpec, HaltRecipe, MissionState, Mode, TaskSpec, TaskState
from qaios.engines.halting import HaltTable
from qaios.journal.artifacts import FileArtifacts
from qaios.journal.sqlite import SqliteJournal
from qaios.kernel.bus import LocalBus
from qaios.kernel.kernel import Kernel, NewMission
from qaios.kernel.policy import Greedy
from qaios.kernel.supervisor import Supervisor
from qaios.schema.mission import MissionDocument, task_specs
from qaios.schema.views import (
    DeviceView,
    EngineView,
    EventView,
    MissionReport,
    MissionView,
    NodeStatus,
    TaskView,
    WhyView,
)
from qaios.system import boot, projection, story
from qaios.system.clock import NodeClock
from qaios.system.config import Settings
from qaios.system.planners import planners
from qaios.system.shelf import Shelf
from qaios.system.surroundings import Surroundings
from qaios.telemetry.log import close_log, open_log

_log = logging.getLogger("qaios.system")


class System:
    """A running node. Made by `System.boot`; satisfies `qaios.client.node.Node`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started = time.time()
        self._steps_s: dict[str, float] = {}
        self._closing = asyncio.Event()
        self._fatal: BaseException | None = None
        home = settings.home
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        (home / "run").mkdir(exist_ok=True, mode=0o700)
        self.artifacts = FileArtifacts(home / "artifacts")
        self.clock = NodeClock(self._world_lost)
        self.bus = LocalBus(lambda topic, error: _log.error("a listener of %s failed", topic, exc_info=error))
        self.shelf = Shelf(SqliteJournal(home / "journal.db", encode=ev.encode_events, decode=ev.decode_events))
        self.surroundings = Surroundings(settings, self.clock)
        site = Site(
            clock=self.clock,
            artifacts=self.artifacts,
            home=str(home),
            seed=settings.seed,
            profile=settings.profile,
            world=str(home / "run" / "world.json") if settings.profile == "sim" else "",
        )
        self.kernel = Kernel(
            journal=self.shelf,
            devices=boot.devices(settings, site),
            policy=Greedy(),
            clock=self.clock,
            bus=self.bus,
            artifacts=self.artifacts,
            planners=planners(settings),
            node=secrets.token_hex(8),
            version=qaios.__version__,
        )
        self.supervisor = Supervisor(self.clock, self._crashed)
        self._halts = HaltTable(home, self._recipes)
        self._running: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[None] | None = None

    # ── life ─────────────────────────────────────────────────────────────────

    @classmethod
    @asynccontextmanager
    async def boot(cls, settings: Settings | None = None) -> AsyncIterator[System]:
        """Ready when the block begins: the journal is replayed and work is taken."""
        settings = settings or Settings.load()
        began_s = time.perf_counter()
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = open_log(settings.home)
        try:
            system = cls(settings)
            try:
                await system._start(began_s)
                yield system
                if system._fatal is not None:
                    raise system._fatal
            finally:
                await system._stop()
        finally:
            close_log(log)

    async def _start(self, began_s: float) -> None:
        self._step("compose", began_s)
        self.shelf.listen(self._noted)
        await self.surroundings.rejoin()
        self._step("surroundings", began_s)
        await self.kernel.recover()
        self.clock.not_before(max((event.at_s for event in self.shelf.events), default=0.0))
        self._step("journal", began_s)
        serving: dict[str, asyncio.Event] = {}
        engines: list[Engine] = [self.kernel, self._halts, *self._doors()]
        for engine in engines:
            serving[engine.name] = asyncio.Event()
        self._running = asyncio.create_task(self._run(engines, serving), name="engines")
        await self._until_serving(list(serving.values()), self._running)
        self._step("engines", began_s)
        await self._resume_surroundings()
        if self.settings.open_all:
            # In the background: the node takes work before its simulated drones stand on their pads.
            self._opening = asyncio.create_task(self._open_all(), name="open all devices")
            self._opening.add_done_callback(self._opened)
        _log.info("ready after %.2f s, epoch %d", self._steps_s["engines"], self.kernel.machine.epoch)

    async def _until_serving(self, serving: Sequence[asyncio.Event], running: asyncio.Task[None]) -> None:
        """Return when every engine serves; raise what ended them instead."""

        async def all_of_them() -> None:
            for event in serving:
                await event.wait()

        waiting = asyncio.create_task(all_of_them())
        await asyncio.wait({waiting, running}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            waiting.cancel()
            running.result()
            raise self._fatal or JournalBroken("the engines ended before they served")

    async def _run(self, engines: Sequence[Engine], serving: dict[str, asyncio.Event]) -> None:
        try:
            await self.supervisor.run(engines, lambda name: serving[name].set())
        except* JournalBroken as group:
            self._fatal = group.exceptions[0]
            _log.critical("the journal is broken; this node stops: %s", self._fatal)
            self._closing.set()
            self.shelf.closed = True
            self.shelf.wake()

    async def _stop(self) -> None:
        self._closing.set()
        if self._opening is not None:
            self._opening.cancel()
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running
        await self.kernel.close()
        await self.surroundings.close(leave=any(one.ended_s is None for one in self.kernel.machine.missions))
        self.shelf.close()
        self._halts.write()

    def _recipes(self) -> Mapping[str, Sequence[HaltRecipe]]:
        return {name: berth.device.halt_recipes() for name, berth in self.kernel.fleet.berths.items() if berth.usable}

    def _doors(self) -> list[Engine]:
        if not self.settings.doors:
            return []
        return [point.load().make(self, self.settings.home) for point in boot.found(boot.DOORS).values()]

    async def _resume_surroundings(self) -> None:
        """What unfinished missions need from outside must be there before their tasks are placed again."""
        machine = self.kernel.machine
        live = machine.in_state(TaskState.WAITING, TaskState.READY, TaskState.RUNNING, TaskState.REPAIRING)
        await self.surroundings.need({machine.shapes[machine.shape[task]].action for task in live.tolist()})

    async def _open_all(self) -> None:
        actions = {action.name for berth in self.kernel.fleet.berths.values() for action in berth.device.spec.actions}
        await self.surroundings.need(actions)
        self.kernel.fleet.open_soon(self.kernel.fleet.berths)

    def _opened(self, opening: asyncio.Task[None]) -> None:
        if not opening.cancelled() and (error := opening.exception()) is not None:
            _log.error("not every device could be opened: %s", error)

    def _step(self, name: str, began_s: float) -> None:
        self._steps_s[name] = round(time.perf_counter() - began_s, 4)

    async def _crashed(self, engine: str, error: BaseException, restarts: int, wait_s: float) -> None:
        _log.error("engine %s crashed", engine, exc_info=error)
        reason = f"{type(error).__name__}: {error}"
        await self.kernel.post(
            ev.EngineCrashed(at_s=self.clock.now_s(), engine=engine, reason=reason, restarts=restarts, wait_s=wait_s)
        )

    def _world_lost(self, reason: str) -> None:
        _log.error("the world is gone, the node goes on by its own clock: %s", reason)

    def _noted(self, first: int, events: Sequence[ev.Event]) -> None:
        """Every durable event goes to the log, and may change how fast the world goes."""
        for number, event in enumerate(events, first):
            if not isinstance(event, ev.ChunkEmitted):
                _log.info("%d %s", number, story.view(number, event, self.kernel.machine).text)
        if self.clock.follows_world:
            self.surroundings.hurry(self._only_flying())

    def _only_flying(self) -> bool:
        """Whether nothing but the simulated world is at work, so that its time may run ahead of ours.

        A second of computing, planning or learning costs a second of world time, as it would in the field.
        """
        machine = self.kernel.machine
        if len(machine.in_state(TaskState.REPAIRING)):
            return False
        running = machine.in_state(TaskState.RUNNING, TaskState.CANCELLING)
        devices = {machine.devices[index] for index in set(machine.device[running].tolist())}
        return bool(devices) and all(
            self.surroundings.is_of_world(self.kernel.fleet[name].device.spec) for name in devices
        )

    async def closed(self) -> None:
        """Return when somebody asked for shutdown; raise when the journal broke."""
        await self._closing.wait()
        if self._fatal is not None:
            raise self._fatal

    # ── what doors ask (qaios.client.node.Node) ──────────────────────────────

    async def status(self) -> NodeStatus:
        engines = [
            EngineView(
                name=one.name,
                state={"serving": "ready", "waiting": "restarting"}.get(one.state, one.state),
                restarts=one.restarts,
                error=one.reason,
            )
            for one in self.supervisor.records.values()
        ]
        return NodeStatus(
            version=qaios.__version__,
            pid=os.getpid(),
            profile=self.settings.profile,
            home=str(self.settings.home),
            epoch=self.kernel.machine.epoch,
            started=self.started,
            uptime_s=time.time() - self.started,
            boot_s=self._steps_s.get("engines", 0.0),
            boot_steps_s=self._steps_s,
            clock=self.clock.now_s(),
            simulated=self.clock.follows_world,
            engines=engines,
            counts=projection.state_counts(self.kernel),
            halted=sorted(self.kernel.machine.halted),
        )

    async def catalogue(self) -> Sequence[DeviceSpec]:
        return [berth.device.spec for berth in self.kernel.fleet.berths.values()]

    async def devices(self) -> Sequence[DeviceView]:
        running: dict[str, list[int]] = {}
        machine = self.kernel.machine
        for task in machine.in_state(TaskState.RUNNING, TaskState.CANCELLING).tolist():
            running.setdefault(machine.device_name(task), []).append(task)
        return [
            projection.device_view(self.kernel, berth, running.get(name, []))
            for name, berth in sorted(self.kernel.fleet.berths.items())
        ]

    async def missions(self) -> Sequence[MissionView]:
        records = self.kernel.machine.missions
        return [projection.mission_view(self.kernel, record, (), tasks=False) for record in records]

    async def mission(self, mission: str) -> MissionView:
        return projection.mission_view(self.kernel, self._record(mission), self.shelf.events, tasks=True)

    async def report(self, mission: str) -> MissionReport:
        return projection.report(self.kernel, self._record(mission), self.shelf.events)

    async def plan(self, document: MissionDocument) -> Sequence[TaskView]:
        specs = self._specs(document)
        new = NewMission(name=document.mission, tasks=specs, seed=document.seed or 0)
        placements, _ = self.kernel.plan(new)
        chosen = {placement.task: placement for placement in placements.placed}
        views = []
        for row, spec in enumerate(specs):
            decision = chosen[row].decision if row in chosen else placements.impossible.get(row)
            why = WhyView(waited_for=[f"task {need}" for need in spec.needs])
            if decision is not None:
                why = projection.why_of(placements.decisions[decision], why.waited_for)
            views.append(
                TaskView(
                    name=spec.name,
                    action=spec.action,
                    device=chosen[row].device if row in chosen else "",
                    state="planned" if row in chosen else "impossible",
                    priority=spec.priority,
                    mode=str(spec.mode),
                    needs=list(spec.needs),
                    why=why,
                )
            )
        return views

    async def submit(self, document: MissionDocument, *, seed: int | None = None, key: str | None = None) -> str:
        text = document.model_dump_json(by_alias=True).encode()
        if key and (known := self.kernel.machine.keys.get(key)) is not None:
            if self.kernel.machine.record(known).document != text:
                raise Conflict(f"the key {key} was used for another mission, {known}", hint="take a new key")
            return known
        specs = self._specs(document)
        actions = {spec.action for spec in specs}
        await self.surroundings.need(actions | {spec.fallback for spec in specs})
        # Opened now and all at once, so that no task has to wait for its device later.
        self.kernel.fleet.open_soon(self.kernel.fleet.wanted(actions))
        return await self.kernel.submit(
            NewMission(
                name=document.mission,
                tasks=specs,
                goal=document.goal,
                owner=getpass.getuser(),
                key=key or "",
                seed=next(one for one in (seed, document.seed, self.settings.seed) if one is not None),
                deadline_s=document.deadline,
                document=text,
            )
        )

    def _specs(self, document: MissionDocument) -> list[TaskSpec]:
        """The tasks of a document, which is checked here whichever door it came by. Raises `MissionInvalid`.

        A task of an action that only quantum devices offer is native unless it says otherwise.
        """
        if faults := check_document(document, [berth.device.spec for berth in self.kernel.fleet.berths.values()]):
            raise MissionInvalid(faults)
        quantum: set[str] = set()
        classical: set[str] = set()
        for berth in self.kernel.fleet.berths.values():
            for action in berth.device.spec.actions:
                (quantum if action.quantum else classical).add(action.name)
        said = {name for name, task in document.tasks.items() if task.mode is not None}
        said |= set(document.tasks) if "mode" in document.defaults.model_fields_set else set()
        return [
            msgspec.structs.replace(spec, mode=Mode.NATIVE)
            if spec.name not in said and spec.action in quantum - classical
            else spec
            for spec in task_specs(document)
        ]

    async def cancel(self, mission: str, task: str | None = None) -> None:
        await self.kernel.cancel(self._record(mission).id, task, by=getpass.getuser())

    async def watch(self, mission: str | None = None, after: int = 0) -> AsyncIterator[EventView]:
        record = None if mission is None else self._record(mission)
        seen = after
        while True:
            while seen < len(self.shelf.events):
                seen += 1
                row = story.view(seen, self.shelf.events[seen - 1], self.kernel.machine)
                if record is None or row.mission == record.id:
                    yield row
            if self._fatal is not None:
                raise self._fatal
            if self._closing.is_set() or (record is not None and record.told):
                return
            await self.shelf.more(seen)

    async def events(self, after: int = 0, limit: int = 1000) -> Sequence[EventView]:
        last = min(len(self.shelf.events), after + limit)
        return [story.view(n, self.shelf.events[n - 1], self.kernel.machine) for n in range(after + 1, last + 1)]

    async def artifact(self, sha256: str) -> bytes:
        return await asyncio.to_thread(self.artifacts.get, sha256)

    async def halt(self, device: str | None = None) -> Sequence[str]:
        return await self.kernel.halt(None if device is None else [device], by=getpass.getuser())

    async def release(self, device: str) -> None:
        await self.kernel.fleet.release(device)

    async def resolve(self, mission: str, task: str, *, happened: bool) -> None:
        """A person says what became of a task whose outcome is unknown."""
        record = self._record(mission)
        number = self.kernel.task_id(record.id, task)
        if self.kernel.machine.state[number] != TaskState.UNKNOWN:
            state = TaskState(self.kernel.machine.state[number]).name.lower()
            raise Conflict(f"task {task} is {state}, its outcome is not unknown", hint="there is nothing to resolve")
        await self.kernel.resolve(number, happened=happened, by=getpass.getuser())

    async def shutdown(self) -> None:
        self._closing.set()
        self.shelf.wake()

    async def finish(self, mission: str) -> MissionState:
        """Return when no task of the mission can go on."""
        record = self._record(mission)
        async for _event in self.watch(record.id, after=len(self.shelf.events)):
            pass
        return record.state

    def _record(self, mission: str) -> MissionRecord:
        """By id, or the newest of that name."""
        machine = self.kernel.machine
        if mission in machine.mission_ids:
            return machine.mission_ids[mission]
        named = [record for record in machine.missions if record.name == mission]
        if not named:
            raise NotFound(f"no mission {mission}", hint="`qai mission ls` lists them")
        return named[-1]
