"""An outside witness: MAVSDK, whose authors never heard of us, flies one of our vehicles at 1x."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from qaios.robotics.geo import Origin
from qaios.worlds.launch import launch
from qaios.worlds.observer import Observer

WAYPOINTS_M = [(-9.0, -52.0, 6.0), (1.0, -52.0, 6.0)]


async def _until(stream: AsyncIterator[Any], wanted: Callable[[Any], bool]) -> Any:
    """The first value of an endless stream that is wanted."""
    async for value in stream:
        if wanted(value):
            return value
    raise AssertionError("the stream ended")


@pytest.mark.slow
async def test_mavsdk_discovers_uploads_arms_takes_off_flies_the_mission_and_returns(tmp_path: Path) -> None:
    from mavsdk.asyncio import ComponentType, Configuration, Mavsdk
    from mavsdk.asyncio.plugins.action import ActionAsync
    from mavsdk.asyncio.plugins.mission import MissionAsync, MissionItem, MissionPlan
    from mavsdk.asyncio.plugins.telemetry import TelemetryAsync

    world = launch(tmp_path, seed=5, vehicles=1)
    frame = Origin(world.lat_deg, world.lon_deg)
    async with (
        asyncio.timeout(150.0),
        Observer.connect(world.host, world.port, world.token) as observer,
        Mavsdk(Configuration.create_with_component_type(ComponentType.GROUND_STATION)) as mavsdk,
    ):
        await mavsdk.add_any_connection(f"udpout://127.0.0.1:{world.vehicles[0].port}")
        system = await mavsdk.first_autopilot(timeout_s=20.0)
        assert system is not None
        assert await system.get_system_id() == 1
        action, mission, telemetry = ActionAsync(system), MissionAsync(system), TelemetryAsync(system)
        health = await _until(telemetry.subscribe_health(), lambda h: h.is_global_position_ok and h.is_home_position_ok)
        assert health

        items = []
        for east, north, up in WAYPOINTS_M:
            lon, lat = frame.place(east, north)
            items.append(MissionItem(lat, lon, up, speed_m_s=5.0, is_fly_through=True, acceptance_radius_m=1.5))
        await mission.upload_mission(MissionPlan(items))
        assert len((await mission.download_mission()).mission_items) == len(items)

        await action.arm()
        await action.takeoff()
        await _until(telemetry.subscribe_position(), lambda p: p.relative_altitude_m > 4.0)
        await mission.start_mission()
        await _until(mission.subscribe_mission_progress(), lambda p: p.current == p.total == len(items))
        truth = (await observer.metrics()).vehicles[0]
        assert abs(truth.position_m[0] - WAYPOINTS_M[-1][0]) < 3.0
        assert abs(truth.position_m[1] - WAYPOINTS_M[-1][1]) < 3.0

        await action.return_to_launch()
        await _until(telemetry.subscribe_armed(), lambda armed: not armed)
        truth = (await observer.metrics()).vehicles[0]
        assert truth.contacts == 0
        assert abs(truth.position_m[0] - -9.0) < 1.5
        assert abs(truth.position_m[1] - -66.0) < 1.5
        await observer.shutdown()
