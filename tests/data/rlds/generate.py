"""Writes the RLDS episodes in `arm/` with tensorflow_datasets 4.9.10 and TensorFlow 2.21.0: python generate.py

Neither is needed to read them, so neither is installed for the tests.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

HERE = Path(__file__).parent


class Arm(tfds.core.GeneratorBasedBuilder):
    """Episodes of 5, 1 and 9 steps: the action of step s of episode e is (e, s, -s/8)."""

    VERSION = tfds.core.Version("0.1.0")

    def _info(self):
        f = tfds.features
        steps = {
            "observation": {"image": f.Image(shape=(8, 8, 3)), "state": f.Tensor(shape=(4,), dtype=np.float32)},
            "action": f.Tensor(shape=(3,), dtype=np.float32),
            "reward": f.Scalar(np.float32),
            "is_first": f.Scalar(np.bool_),
            "is_last": f.Scalar(np.bool_),
            "language_instruction": f.Text(),
        }
        metadata = {"file_path": f.Text(), "number": f.Scalar(np.int64)}
        features = {"steps": f.Dataset(steps), "episode_metadata": metadata}
        return tfds.core.DatasetInfo(builder=self, features=f.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for e, length in enumerate((5, 1, 9)):
            steps = [
                {
                    "observation": {
                        "image": np.full((8, 8, 3), s, np.uint8),
                        "state": np.arange(4, dtype=np.float32) + s,
                    },
                    "action": np.array([e, s, -s / 8], np.float32),
                    "reward": 0.5,
                    "is_first": s == 0,
                    "is_last": s == length - 1,
                    "language_instruction": f"task {e}",
                }
                for s in range(length)
            ]
            yield str(e), {"steps": steps, "episode_metadata": {"file_path": f"{e}.npy", "number": -(3**30) * e}}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        Arm(data_dir=folder).download_and_prepare()
        shutil.rmtree(HERE / "arm", ignore_errors=True)
        shutil.copytree(Path(folder) / "arm" / "0.1.0", HERE / "arm")
