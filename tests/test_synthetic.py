import doctest

import numpy as np
import pytest
from scipy.fft import dct

from fast_tokenizer import synthetic
from fast_tokenizer.synthetic import ROBOTS, Robot, generate_trajectories, generate_trajectory

every_robot = pytest.mark.parametrize("robot", ROBOTS.values(), ids=lambda robot: robot.name)


def test_docstring_examples_run():
    assert doctest.testmod(synthetic).failed == 0


@pytest.mark.parametrize(
    ("name", "hz", "action_dim"),
    [("aloha", 50, 14), ("droid", 15, 8), ("libero", 20, 7), ("humanoid", 60, 29)],
)
def test_robots_have_the_published_rates_and_dimensions(name, hz, action_dim):
    robot = ROBOTS[name]
    assert (robot.name, robot.hz, robot.action_dim) == (name, hz, action_dim)
    assert len(set(robot.dimension_names)) == action_dim


def test_dimension_names_go_arm_by_arm_and_end_with_the_gripper():
    assert ROBOTS["libero"].dimension_names == ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    aloha = ROBOTS["aloha"].dimension_names
    assert (aloha[0], aloha[6], aloha[7], aloha[13]) == (
        "left_waist",
        "left_gripper",
        "right_waist",
        "right_gripper",
    )


@every_robot
def test_same_seed_same_bytes_and_more_trajectories_extend_the_list(robot):
    four = generate_trajectories(robot, 4, seed=5)
    two = generate_trajectories(robot, 2, seed=5)
    assert [t.tobytes() for t in two] == [t.tobytes() for t in four[:2]]
    assert four[0].tobytes() != four[1].tobytes()
    assert four[0].tobytes() != generate_trajectories(robot, 1, seed=6)[0].tobytes()


@every_robot
@pytest.mark.parametrize("seconds", [1e-3, 0.1, 1.0, 7.3])
def test_a_trajectory_is_finite_float32_of_the_asked_length(robot, seconds):
    trajectory = generate_trajectory(robot, seconds, np.random.default_rng(0))
    assert trajectory.shape == (max(1, round(seconds * robot.hz)), robot.action_dim)
    assert trajectory.dtype == np.float32
    assert np.isfinite(trajectory).all()


def test_durations_fill_the_asked_range():
    lengths = [len(t) for t in generate_trajectories(ROBOTS["droid"], 200, seed=0, seconds=(2.0, 4.0))]
    assert 30 <= min(lengths) < 33
    assert 57 < max(lengths) <= 60


def test_count_zero_is_an_empty_list():
    assert generate_trajectories(ROBOTS["droid"], 0, seed=0) == []


def test_global_random_state_is_neither_read_nor_written():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    generate_trajectories(ROBOTS["droid"], 1, seed=0)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_binary_gripper_is_plus_or_minus_one_outside_of_its_ramps():
    gripper = np.concatenate([t[:, -1] for t in generate_trajectories(ROBOTS["libero"], 100, seed=1)])
    assert np.abs(gripper).max() == 1.0
    assert np.mean(np.abs(gripper) == 1.0) > 0.9
    assert np.mean(gripper == 1.0) > 0.3
    assert np.mean(gripper == -1.0) > 0.3


@pytest.mark.parametrize(("name", "columns"), [("aloha", [6, 13]), ("droid", [7])])
def test_continuous_grippers_use_all_of_zero_to_one(name, columns):
    opening = np.concatenate(generate_trajectories(ROBOTS[name], 50, seed=1))[:, columns]
    assert 0.0 <= opening.min() < 0.05
    assert 0.95 < opening.max() <= 1.0


def test_end_effector_deltas_are_bounded_and_use_their_range():
    deltas = np.concatenate(generate_trajectories(ROBOTS["libero"], 100, seed=1))
    assert np.abs(deltas).max() == 1.0
    assert np.quantile(np.abs(deltas[:, :3]), 0.99) > 0.5


@pytest.mark.parametrize("name", ["droid", "libero"])
def test_commands_of_an_idle_arm_are_exactly_zero_about_a_tenth_of_the_time(name):
    actions = np.concatenate(generate_trajectories(ROBOTS[name], 200, seed=2))
    idle = (actions[:, :6] == 0.0).all(axis=1)
    assert 0.07 < idle.mean() < 0.13
    assert (actions[~idle, :3] != 0.0).mean() > 0.99


def test_an_idle_arm_holds_its_pose_with_less_noise():
    steps = np.concatenate([np.diff(t[:, :6], axis=0) for t in generate_trajectories(ROBOTS["aloha"], 100, 2)])
    quiet = np.abs(steps).max(axis=1) < 6e-4  # six standard deviations of the still noise
    assert 0.07 < quiet.mean() < 0.14


def test_velocities_are_the_derivative_of_bounded_positions():
    robot = ROBOTS["droid"]
    for trajectory in generate_trajectories(robot, 20, seed=3):
        displacement = np.cumsum(trajectory[:, :7], axis=0) / robot.hz
        reach = np.array([reach for _, reach in robot.arm_joints])
        assert (np.abs(displacement) < 2 * 1.3 * reach).all()  # moves 1.0, corrections 0.2, noise


def test_humanoid_legs_walk_in_opposition():
    actions = np.concatenate(generate_trajectories(ROBOTS["humanoid"], 20, seed=4))
    names = ROBOTS["humanoid"].dimension_names
    left, right = (actions[:, names.index(f"{side}_hip_pitch")] for side in ("left", "right"))
    assert np.corrcoef(left, right)[0, 1] < -0.2


def zero_share(robot: Robot, horizon: int) -> float:
    """Share of zero symbols in windows (T, D): q01/q99 to [-1, 1], orthonormal DCT-II, round(10 c)."""
    trajectories = generate_trajectories(robot, 60, seed=3)
    q01, q99 = np.quantile(np.concatenate(trajectories), (0.01, 0.99), axis=0)
    windows = np.concatenate(
        [t[: len(t) // horizon * horizon].reshape(-1, horizon, robot.action_dim) for t in trajectories]
    )
    normalized = np.clip(2 * (windows - q01) / (q99 - q01) - 1, -1, 1)
    return float(np.mean(np.rint(10 * dct(normalized, axis=1, norm="ortho")) == 0))


@pytest.mark.parametrize(
    ("name", "horizon", "low", "high"),
    [
        ("aloha", 50, 0.85, 0.95),
        ("humanoid", 60, 0.85, 0.95),
        ("droid", 15, 0.70, 0.85),
        ("libero", 16, 0.70, 0.85),
    ],
)
def test_share_of_zero_coefficients_is_that_of_recorded_data(name, horizon, low, high):
    assert low < zero_share(ROBOTS[name], horizon) < high


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_seconds_must_be_positive_and_finite(seconds):
    with pytest.raises(ValueError, match="seconds must be positive and finite, got"):
        generate_trajectory(ROBOTS["aloha"], seconds, np.random.default_rng(0))


@pytest.mark.parametrize("seconds", [(0.0, 1.0), (2.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0)])
def test_the_range_of_seconds_must_be_ordered_and_positive(seconds):
    with pytest.raises(ValueError, match=r"seconds must be \(shortest, longest\)"):
        generate_trajectories(ROBOTS["aloha"], 1, 0, seconds)


def test_count_and_seed_must_not_be_negative():
    with pytest.raises(ValueError, match="count must be 0 or more, got -1"):
        generate_trajectories(ROBOTS["aloha"], -1, seed=0)
    with pytest.raises(ValueError, match="seed must be 0 or more, got -2"):
        generate_trajectories(ROBOTS["aloha"], 1, seed=-2)


@pytest.mark.parametrize(("field", "value"), [("hz", 0.0), ("action", "torque"), ("gripper", "suction"), ("arms", 3)])
def test_a_robot_refuses_fields_it_cannot_move(field, value):
    fields = {
        "name": "mine",
        "hz": 10.0,
        "action": "joint_position",
        "arms": 1,
        "arm_joints": (("hinge", 1.0),),
        "gripper": "none",
    }
    with pytest.raises(ValueError, match=f"{field}.* must be .*got"):
        Robot(**(fields | {field: value}))
