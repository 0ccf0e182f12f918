import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from fast_tokenizer import windows

# The same examples on every run and machine; `--hypothesis-profile=default` searches for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("repeatable")

# `tokenizers` would keep threads of its own, and other tests fork.
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tensors in tests are tiny, and a second thread only makes torch wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

RecordedChunks = Callable[[str, int, int], NDArray[np.float32]]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded data. Where it is missing the test is skipped, or fails if FAST_TOKENIZER_CI is set."""
    root = os.environ.get("FAST_TOKENIZER_SHARED") or Path(__file__).parents[2] / "shared"
    data = Path(root) / "data"
    if not (data / "trajectories").is_dir():
        message = f"no recorded data at {data}; docs/development.md says what belongs there"
        if os.environ.get("FAST_TOKENIZER_CI"):
            pytest.fail(message)
        pytest.skip(message)
    return data


@pytest.fixture(scope="session")
def recorded_chunks(shared_data: Path) -> RecordedChunks:
    """chunks(name, T, N): N windows (N, T, D) of a recorded set, evenly spread over all its episodes."""

    def chunks(name: str, horizon: int, count: int) -> NDArray[np.float32]:
        with np.load(shared_data / "trajectories" / name / "episodes.npz") as file:
            episodes = np.split(file["actions"], file["episode_ends"][:-1])
        every = np.concatenate([windows(episode, horizon, stride=horizon) for episode in episodes])
        return np.ascontiguousarray(every[np.linspace(0, len(every) - 1, count).astype(int)])

    return chunks
