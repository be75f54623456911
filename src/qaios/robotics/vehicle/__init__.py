"""A vehicle: the autopilot process of one drone, with its own mission and its own safety.

    __main__.py   the process: one socket to its body (the world), one UDP port for MAVLink, one loop
    endpoint.py   MAVLink in and out: telemetry, commands, mission and fence transfer, parameters, the sample log
    autopilot.py  what it does next: modes, the mission, arming, take-off, landing
    safety.py     when it decides for itself: fence, lost link, battery, tilt
    steering.py   where it must not go: obstacles by lidar, other vehicles by beacon
    plan.py       the values: mission items, fences, parameters
    planid.py     the plan-id fields of MAVLink that pymavlink does not know yet

It needs nobody's help to be safe: the same process flies with a kernel, a ground station, or nobody at all.
Everything below `__main__` is free of sockets and clocks and runs in tests without a process.
"""
