"""Flow matching: times, the straight path from actions to noise, and Euler's method back.

Time runs from 0 (the actions) to 1 (noise), as in openpi; the paper's tau is ``1 - t``. On the path
``x_t = t * noise + (1 - t) * actions`` the velocity is ``noise - actions`` (arXiv 2505.23705, eq. 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class TimeSampler(Protocol):
    """Draws flow times."""

    def __call__(self, n: int, *, device: torch.device | None, generator: torch.Generator | None) -> Tensor:
        """(n,) float32 in [0, 1]."""


@dataclass(frozen=True, slots=True)
class BetaTime:
    """``t = first + (1 - first) * z`` with z ~ Beta(a, 1): openpi's times, which favour the noisy end.

    Beta(a, 1) has the distribution function z**a, so that z is a uniform number to the power 1/a.

    Attributes:
        a: Exponent; 1 is uniform.
        first: The smallest time, at which the actions are all but clean.

    Raises:
        ValueError: a is not positive, or first is not in [0, 1).
    """

    a: float = 1.5
    first: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.a < math.inf or not 0 <= self.first < 1:
            raise ValueError(f"expected a > 0 and 0 <= first < 1, got a={self.a!r}, first={self.first!r}")

    def __call__(self, n: int, *, device: torch.device | None, generator: torch.Generator | None) -> Tensor:
        """(n,) float32 in [first, 1]."""
        z = torch.rand(n, device=device, generator=generator) ** (1 / self.a)
        return self.first + (1 - self.first) * z


@dataclass(frozen=True, slots=True)
class UniformTime:
    """Times uniform in [0, 1)."""

    def __call__(self, n: int, *, device: torch.device | None, generator: torch.Generator | None) -> Tensor:
        """(n,) float32 in [0, 1)."""
        return torch.rand(n, device=device, generator=generator)


@dataclass(frozen=True, slots=True)
class LogitNormalTime:
    """The sigmoid of a normal number: favours the middle of the path (arXiv 2403.03206).

    Attributes:
        mean: Of the normal number; above 0 favours noise.
        std: Its standard deviation, positive.

    Raises:
        ValueError: The mean is not finite, or the deviation not positive.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean) or not 0 < self.std < math.inf:
            raise ValueError(f"expected a finite mean and std > 0, got mean={self.mean!r}, std={self.std!r}")

    def __call__(self, n: int, *, device: torch.device | None, generator: torch.Generator | None) -> Tensor:
        """(n,) float32 in (0, 1)."""
        return torch.sigmoid(self.mean + self.std * torch.randn(n, device=device, generator=generator))


def interpolate(actions: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The point of each path at its time, and its velocity.

    Args:
        actions: (B, H, A).
        noise: (B, H, A), standard normal.
        t: (B,) in [0, 1].

    Returns:
        x_t and the velocity ``noise - actions``, both (B, H, A).

    Example:
        >>> x, velocity = interpolate(torch.ones(1, 1, 1), torch.full((1, 1, 1), 3.0), torch.tensor([0.25]))
        >>> x.item(), velocity.item()
        (1.5, 2.0)
    """
    t = t[:, None, None]
    return t * noise + (1 - t) * actions, noise - actions


def euler(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Follows the velocity from noise at t = 1 to actions at t = 0, in equal steps.

    Args:
        velocity: Called `steps` times, with x (B, H, A) and t (B,) float32.
        noise: (B, H, A), where the paths begin.
        steps: How many; positive.

    Returns:
        (B, H, A): the point reached at t = 0.

    Raises:
        ValueError: There is no step.

    Example:
        >>> euler(lambda x, t: x * 0 + 2, torch.zeros(1, 1, 1), steps=4).item()
        -2.0
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer, got {steps!r}")
    x = noise
    for i in range(steps):  # times are counted, not added up: the number of calls cannot depend on rounding
        t = torch.full((len(x),), 1 - i / steps, device=x.device, dtype=torch.float32)
        x = x - velocity(x, t) / steps
    return x
