"""One quadrotor's numbers, and the MuJoCo model of a scene full of them.

`mjcf` writes the one model that holds the ground, the buildings and every drone: free bodies with an inertia, a
box that feels MuJoCo's ellipsoid fluid forces, and four thrusters in an X with a reaction torque. Geometry that
lidar should see (ground, buildings) is in geom group 0, drones are in group 1.

The airframe is a 1 kg, 0.34 m class quadrotor; no particular product. Reaction torque per thrust and rotor radius
are typical of 9-inch propellers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qaios.worlds.scene import Scene

MASS_KG = 1.0
ARM_M = 0.17  # hub to motor
INERTIA_KGM2 = np.array([0.0075, 0.0075, 0.013])
ROTOR_RADIUS_M = 0.12
TORQUE_PER_THRUST_M = 0.016
THRUST_MAX_N = 5.5  # one motor
REST_HEIGHT_M = 0.05  # of the centre, standing on its box
GRAVITY_MPS2 = 9.81
AIR_DENSITY_KGPM3 = 1.225
AIR_VISCOSITY_PAS = 1.8e-5
SEEN_GROUP = 0
DRONE_GROUP = 1

# Motors: front-left, rear-left, rear-right, front-right; diagonal pairs turn the same way.
MOTOR_XY_M = ARM_M / np.sqrt(2.0) * np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
MOTOR_SPIN = np.array([1.0, -1.0, 1.0, -1.0])


def mixer() -> NDArray[np.float64]:
    """Shape (4 motors, 4): thrusts from (total thrust, roll, pitch and yaw torque)."""
    allocation = np.array(
        [np.ones(4), MOTOR_XY_M[:, 1], -MOTOR_XY_M[:, 0], MOTOR_SPIN * TORQUE_PER_THRUST_M]
    )  # thrusts -> (T, tau)
    return np.asarray(np.linalg.inv(allocation), dtype=np.float64)


def mjcf(scene: Scene, drones: int, step_s: float) -> str:
    """The MuJoCo XML of `scene` with `drones` vehicles standing on its pads."""
    bodies: list[str] = []
    motors: list[str] = []
    inertia = " ".join(f"{value:g}" for value in INERTIA_KGM2)
    for i, (east, north) in enumerate(scene.pads_m[:drones]):
        sites = "".join(f'<site name="m{i}_{k}" pos="{x:g} {y:g} 0.02"/>' for k, (x, y) in enumerate(MOTOR_XY_M))
        bodies.append(
            f'<body name="drone{i}" pos="{east:g} {north:g} {REST_HEIGHT_M:g}"><freejoint/>'
            f'<inertial pos="0 0 0" mass="{MASS_KG:g}" diaginertia="{inertia}"/>'
            f'<geom name="drone{i}" type="box" size="0.16 0.16 0.05" group="{DRONE_GROUP}" fluidshape="ellipsoid"'
            ' friction="1 0.1 0.1" rgba="0.2 0.3 0.8 1"/>' + sites + "</body>"
        )
        motors.extend(
            f'<motor site="m{i}_{k}" gear="0 0 1 0 0 {spin * TORQUE_PER_THRUST_M:g}" ctrllimited="true" '
            f'ctrlrange="0 {THRUST_MAX_N:g}"/>'
            for k, spin in enumerate(MOTOR_SPIN)
        )
    boxes = "".join(
        f'<geom name="building{i}" type="box" pos="{b.east_m:g} {b.north_m:g} {b.height_m / 2:g}" '
        f'size="{b.width_m / 2:g} {b.depth_m / 2:g} {b.height_m / 2:g}" group="{SEEN_GROUP}" rgba="0.6 0.6 0.6 1"/>'
        for i, b in enumerate(scene.buildings)
    )
    return (
        f'<mujoco model="{scene.name}"><option timestep="{step_s:g}" integrator="implicitfast" '
        f'density="{AIR_DENSITY_KGPM3:g}" viscosity="{AIR_VISCOSITY_PAS:g}" gravity="0 0 -{GRAVITY_MPS2:g}"/>'
        "<visual><global offwidth='1280' offheight='720'/></visual>"
        "<worldbody><light pos='0 0 100' dir='0 0 -1'/>"
        f'<geom name="ground" type="plane" size="500 500 1" group="{SEEN_GROUP}" rgba="0.4 0.5 0.4 1"/>'
        f"{boxes}{''.join(bodies)}</worldbody><actuator>{''.join(motors)}</actuator></mujoco>"
    )
