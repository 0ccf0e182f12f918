"""Seeded chunks of generated robots, normalised by quantiles as users do, float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer import Normalizer, windows
from fast_tokenizer.synthetic import ROBOTS, generate_trajectories


@dataclass(frozen=True, slots=True)
class Workload:
    """A robot and the chunk it is used with."""

    robot: str
    horizon: int

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.robot} {self.horizon} x {ROBOTS[self.robot].action_dim}"

    def chunks(self, count: int, seed: int) -> NDArray[np.float32]:
        """(count, T, D): windows of enough episodes, shuffled. Statistics come from the episodes themselves."""
        robot = ROBOTS[self.robot]
        seconds, stride = 14.0, 5
        per_episode = (round(seconds * robot.hz) - self.horizon) // stride + 1
        episodes = generate_trajectories(robot, -(-count // per_episode), seed, (seconds, seconds))
        normalizer = Normalizer.fit(np.concatenate(episodes), "quantile")
        cut = np.concatenate([windows(e, self.horizon, stride) for e in episodes])
        order = np.random.default_rng(seed).permutation(len(cut))[:count]
        return normalizer.apply(cut[order]).astype(np.float32)


WORKLOADS = (Workload("aloha", 50), Workload("droid", 15), Workload("libero", 16))
