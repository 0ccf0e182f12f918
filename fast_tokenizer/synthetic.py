"""Synthetic robot trajectories: seeded stand-ins for recorded ones in the demo, default fit and benchmarks.

A limb moves from target to target along minimum-jerk curves, trembles a little and now and then stands still.
Standing still is done with time, not with positions: each limb reads its own clock, which slows down, stops
and starts again.  A stopped clock freezes the limb, its tremor and its gripper together, without a jump.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

Action: TypeAlias = Literal["joint_position", "joint_velocity", "end_effector_delta"]
Gripper: TypeAlias = Literal["binary", "continuous", "none"]
Joint: TypeAlias = tuple[str, float]
"""Name and reach: targets lie in [-reach, reach], in radians or in the end effector's own unit."""

_Floats: TypeAlias = NDArray[np.float64]
_Range: TypeAlias = tuple[float, float]

# (duration of a move, pause after it), both in seconds and drawn uniformly.
_REACHING: tuple[_Range, _Range] = ((0.5, 2.5), (0.0, 0.8))
_CORRECTING: tuple[_Range, _Range] = ((0.5, 1.0), (0.0, 1.0))
_GRASPING: tuple[_Range, _Range] = ((0.3, 0.8), (0.5, 3.0))
_SWITCHING: tuple[_Range, _Range] = ((0.1, 0.1), (1.0, 5.0))

_CORRECTION_SIZE = 0.2  # of the reach
_TREMOR_SIZE = 1e-3  # of the reach
_TREMOR_HZ: _Range = (6.0, 9.0)
_STRIDE_HZ: _Range = (0.7, 1.1)

# Standard deviations, in the unit of the action.
_NOISE: dict[Action, float] = {"joint_position": 1e-3, "joint_velocity": 5e-3, "end_effector_delta": 3e-3}
_STILL_NOISE = 0.1  # of the noise in motion; positions only, see _noise

# Blocks this long stand still with this probability.  Slowing down and starting again take their part of a
# block, so that about 10 % of the time is left in which the clock does not move at all.
_BLOCK_SECONDS = 2.0
_STILL_PROBABILITY = 0.12
_SLOWING_SECONDS = 0.4


def _require_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:  # also refuses nan
        raise ValueError(f"{name} must be positive and finite, got {value}")


@dataclass(frozen=True, slots=True)
class Robot:
    """What the numbers of one action mean: the body joints, then each arm's joints followed by its gripper.

    Attributes:
        name: Short name, the key in `ROBOTS`.
        hz: Actions per second.
        action: "joint_position" in rad, "joint_velocity" in rad/s, or "end_effector_delta": the difference
            per step in the unit of `arm_joints`, clipped to [-1, 1] as controllers clip it.
        arms: 1, or 2 for a left and a right one.
        arm_joints: Joints of one arm, each a name and a reach.
        gripper: "binary" for -1 (open) and +1 (closed) with 0.1 s ramps between them, "continuous" for
            0 (closed) to 1 (open), or "none".
        body_joints: Joints that walk; those whose name starts with "right_" are half a stride late.

    Raises:
        ValueError: A field is outside of the values above.

    Example:
        >>> one_joint = Robot("pendulum", 50.0, "joint_position", 1, (("hinge", 1.5),), "none")
        >>> one_joint.dimension_names
        ('hinge',)
    """

    name: str
    hz: float
    action: Action
    arms: int
    arm_joints: tuple[Joint, ...]
    gripper: Gripper
    body_joints: tuple[Joint, ...] = ()

    def __post_init__(self) -> None:
        _require_positive("hz", self.hz)
        for field, got, allowed in (
            ("action", self.action, get_args(Action)),
            ("gripper", self.gripper, get_args(Gripper)),
            ("arms", self.arms, (1, 2)),
        ):
            if got not in allowed:
                raise ValueError(f"{field} of robot {self.name!r} must be one of {allowed}, got {got!r}")

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """Names of the D action dimensions, in order."""
        arm = [name for name, _ in self.arm_joints] + ["gripper"] * (self.gripper != "none")
        sides = ("",) if self.arms == 1 else ("left_", "right_")
        return (*(name for name, _ in self.body_joints), *(side + name for side in sides for name in arm))

    @property
    def action_dim(self) -> int:
        """Number of action dimensions D."""
        return len(self.dimension_names)


def _legs(*joints: Joint) -> tuple[Joint, ...]:
    return tuple((f"{side}_{name}", reach) for side in ("left", "right") for name, reach in joints)


_ALOHA = Robot(
    name="aloha",
    hz=50.0,
    action="joint_position",
    arms=2,
    arm_joints=(
        ("waist", 0.4),
        ("shoulder", 0.7),
        ("elbow", 0.7),
        ("forearm_roll", 0.5),
        ("wrist_angle", 0.6),
        ("wrist_rotate", 0.9),
    ),
    gripper="continuous",
)

_DROID = Robot(
    name="droid",
    hz=15.0,
    action="joint_velocity",
    arms=1,
    arm_joints=tuple((f"joint_{i}", reach) for i, reach in enumerate((0.4, 0.6, 0.4, 0.7, 0.5, 0.6, 0.8), 1)),
    gripper="continuous",
)

# The unit is that of robosuite's OSC_POSE controller: 1 is a step of 0.05 m or 0.5 rad.
_LIBERO = Robot(
    name="libero",
    hz=20.0,
    action="end_effector_delta",
    arms=1,
    arm_joints=(("x", 8.0), ("y", 8.0), ("z", 7.0), ("roll", 1.0), ("pitch", 1.4), ("yaw", 2.0)),
    gripper="binary",
)

_HUMANOID = Robot(
    name="humanoid",
    hz=60.0,
    action="joint_position",
    arms=2,
    arm_joints=(
        ("shoulder_pitch", 0.8),
        ("shoulder_roll", 0.5),
        ("shoulder_yaw", 0.5),
        ("elbow", 0.8),
        ("wrist_roll", 0.6),
        ("wrist_pitch", 0.4),
        ("wrist_yaw", 0.4),
    ),
    gripper="none",
    body_joints=(
        *_legs(
            ("hip_pitch", 0.4),
            ("hip_roll", 0.1),
            ("hip_yaw", 0.1),
            ("knee", 0.5),
            ("ankle_pitch", 0.3),
            ("ankle_roll", 0.08),
        ),
        ("waist_yaw", 0.2),
        ("waist_roll", 0.06),
        ("waist_pitch", 0.1),
    ),
)

ROBOTS: dict[str, Robot] = {robot.name: robot for robot in (_ALOHA, _DROID, _LIBERO, _HUMANOID)}


def generate_trajectories(
    robot: Robot, count: int, seed: int, seconds: tuple[float, float] = (8.0, 20.0)
) -> list[NDArray[np.float32]]:
    """Generate `count` trajectories that depend on nothing but the arguments.

    Trajectory i depends on (seed, i) only, so a larger `count` extends the same list.

    Args:
        robot: What to move.
        count: Number of trajectories, 0 or more.
        seed: 0 or more.
        seconds: Shortest and longest duration in s; each trajectory's is drawn uniformly between them.

    Returns:
        A list of `count` arrays (L, D), float32, each as `generate_trajectory` returns it.

    Raises:
        ValueError: `count` or `seed` is negative, or `seconds` is not 0 < shortest <= longest < inf.

    Example:
        >>> [trajectory.shape for trajectory in generate_trajectories(ROBOTS["droid"], 2, 0, (4.0, 4.0))]
        [(60, 8), (60, 8)]
    """
    if count < 0:
        raise ValueError(f"count must be 0 or more, got {count}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    shortest, longest = seconds
    if not 0 < shortest <= longest < math.inf:
        raise ValueError(f"seconds must be (shortest, longest) with 0 < shortest <= longest, got {seconds}")
    trajectories = []
    for i in range(count):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(i,)))
        trajectories.append(generate_trajectory(robot, rng.uniform(shortest, longest), rng))
    return trajectories


def generate_trajectory(robot: Robot, seconds: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Generate one trajectory.

    The curves are those of human reaching (Flash and Hogan, "The coordination of arm movements", 1985).

    Args:
        robot: What to move.
        seconds: Duration in s.
        rng: Where all randomness comes from.

    Returns:
        Array (L, D), float32, with L = max(1, round(seconds * robot.hz)) and D = robot.action_dim, in raw
        units: rad, rad/s, steps of the end effector, or gripper opening (see `Robot`).

    Raises:
        ValueError: `seconds` is not positive and finite.

    Example:
        >>> generate_trajectory(ROBOTS["aloha"], 14.0, np.random.default_rng(0)).shape
        (700, 14)
    """
    _require_positive("seconds", seconds)
    length = max(1, round(seconds * robot.hz))
    columns = []
    if robot.body_joints:
        clock = _clock(robot.hz, length, rng)
        columns.append(_as_action(robot, _walk(robot.body_joints, clock, rng), clock, rng))
    for _ in range(robot.arms):
        clock = _clock(robot.hz, length, rng)
        columns.append(_as_action(robot, _move_arm(robot.arm_joints, clock, rng), clock, rng))
        if robot.gripper != "none":
            columns.append(_move_gripper(robot, clock, rng))
    return np.concatenate(columns, axis=1).astype(np.float32)


def _clock(hz: float, length: int, rng: np.random.Generator) -> _Floats:
    """Time of a limb in s, (length + 1,): the time passed, less the time stood still.

    One step more than the trajectory, because velocities and deltas are differences of positions.
    """
    block = max(1, round(_BLOCK_SECONDS * hz))
    window = np.hanning(max(1, round(_SLOWING_SECONDS * hz)) + 2)[1:-1]
    needed = length + len(window) - 1
    moving = np.repeat(rng.random(needed // block + 2) >= _STILL_PROBABILITY, block)
    first = rng.integers(block)  # else all limbs would stop at the same multiples of a block
    # The smoothed rate is exactly 0 within a still block, so that commands there are exactly 0 too.
    rate = np.convolve(moving[first : first + needed], window / window.sum(), mode="valid")
    return np.concatenate(([0.0], np.cumsum(rate / hz)))


def _follow(clock: _Floats, targets: _Floats, rhythm: tuple[_Range, _Range], rng: np.random.Generator) -> _Floats:
    """Positions (len(clock), J) of minimum-jerk moves through targets (K, J), a pause after each."""
    durations, pauses = (rng.uniform(low, high, len(targets) - 1) for low, high in rhythm)
    starts = np.cumsum(durations + pauses) - (durations + pauses)
    move = np.searchsorted(starts, clock, side="right") - 1
    s = np.clip((clock - starts[move]) / durations[move], 0.0, 1.0)[:, None]
    progress: _Floats = s**3 * (10 - 15 * s + 6 * s**2)
    return targets[move] + (targets[move + 1] - targets[move]) * progress


def _target_count(clock: _Floats, rhythm: tuple[_Range, _Range]) -> int:
    """Targets that last until the clock's end, however short all moves and pauses are drawn."""
    (shortest_move, _), (shortest_pause, _) = rhythm
    return int(clock[-1] / (shortest_move + shortest_pause)) + 2


def _move_arm(joints: tuple[Joint, ...], clock: _Floats, rng: np.random.Generator) -> _Floats:
    """Positions (len(clock), joints): large moves, smaller corrections at another pace, tremor."""
    reach = np.array([reach for _, reach in joints])
    positions = _tremble(reach, clock, rng)
    for size, rhythm in ((1.0, _REACHING), (_CORRECTION_SIZE, _CORRECTING)):
        targets = size * reach * rng.uniform(-1.0, 1.0, (_target_count(clock, rhythm), len(reach)))
        positions += _follow(clock, targets, rhythm, rng)
    return positions


def _tremble(reach: _Floats, clock: _Floats, rng: np.random.Generator) -> _Floats:
    """The tremor of the operator's hand, (len(clock), joints)."""
    frequency = rng.uniform(*_TREMOR_HZ, len(reach))
    phase = rng.uniform(0.0, 2 * np.pi, len(reach))
    return _TREMOR_SIZE * reach * np.sin(2 * np.pi * frequency * clock[:, None] + phase)


def _walk(joints: tuple[Joint, ...], clock: _Floats, rng: np.random.Generator) -> _Floats:
    """Positions (len(clock), joints) of a periodic gait with a second harmonic, as legs have."""
    reach = np.array([reach for _, reach in joints]) * rng.uniform(0.6, 1.0)  # short and long strides
    side = np.array([0.5 if name.startswith("right_") else 0.0 for name, _ in joints])
    lag = rng.uniform(0.0, 0.25, len(joints))  # the joints of a leg do not turn back together
    stride = rng.uniform(*_STRIDE_HZ) * clock[:, None] - side - lag + rng.uniform()
    positions: _Floats = reach * (0.8 * np.sin(2 * np.pi * stride) + 0.2 * np.sin(4 * np.pi * stride + 1.0))
    return positions


def _move_gripper(robot: Robot, clock: _Floats, rng: np.random.Generator) -> _Floats:
    """Gripper (len(clock) - 1, 1) that opens and closes in turn."""
    binary = robot.gripper == "binary"
    rhythm = _SWITCHING if binary else _GRASPING
    count = _target_count(clock, rhythm)
    closed = (np.arange(count) + rng.integers(2)) % 2
    if binary:
        return _follow(clock[:-1], np.where(closed, 1.0, -1.0)[:, None], rhythm, rng)
    width = np.where(closed, rng.uniform(0.0, 0.3, count), rng.uniform(0.7, 1.0, count))
    opening = _follow(clock[:-1], width[:, None], rhythm, rng)
    if robot.action == "joint_position":  # a measured robot, gripper included
        opening += _noise(robot, opening.shape, clock, rng)
    return np.clip(opening, 0.0, 1.0)


def _as_action(robot: Robot, positions: _Floats, clock: _Floats, rng: np.random.Generator) -> _Floats:
    """Turn positions (L + 1, joints) into actions (L, joints)."""
    noise = _noise(robot, positions[1:].shape, clock, rng)
    if robot.action == "joint_position":
        return positions[:-1] + noise
    steps = np.diff(positions, axis=0)
    if robot.action == "joint_velocity":
        return steps * robot.hz + noise
    return np.clip(steps + noise, -1.0, 1.0)


def _noise(robot: Robot, shape: tuple[int, ...], clock: _Floats, rng: np.random.Generator) -> _Floats:
    """White noise (L, joints), weaker while the limb stands still.

    Positions are measured, so some noise stays.  Velocities and deltas are commands: none is exactly 0.
    """
    still = _STILL_NOISE if robot.action == "joint_position" else 0.0
    strength = np.where(np.diff(clock) == 0.0, still, 1.0)[:, None]
    return _NOISE[robot.action] * strength * rng.standard_normal(shape)
