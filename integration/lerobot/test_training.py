"""lerobot's own samples through the collate function: the same ids on the way as from a sidecar."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from fast_tokenizer import FastTokenizer, Relative, VlmVocab, windows
from fast_tokenizer.io import read
from fast_tokenizer.sidecar import Sidecar, write_sidecar
from fast_tokenizer.training import TorchCollate
from integration.lerobot.test_datasets import recorded, without_videos  # noqa: F401  (a fixture)

T = 30


# On one core PyTorch warns of two workers.
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_ids_are_those_of_a_sidecar(recorded: Path, tmp_path: Path) -> None:  # noqa: F811
    root = tmp_path / "so101"
    shutil.copytree(recorded / "so101_record_test", root, copy_function=shutil.copyfile)
    without_videos(root)
    ours = read(root)
    trajectories = list(ours.trajectories)
    chunks = np.concatenate([windows(t.actions, T, episode_end="repeat-last") for t in trajectories])
    state = np.concatenate([t.state for t in trajectories])
    names = tuple(ours.state_names[d] for d in range(3))
    for rule in (None, Relative((0, 1, 2), (0, 1, 2), state.shape[1], names)):
        of_rule = {} if rule is None else {"relative": rule, "state": state}
        tok = FastTokenizer.fit(chunks, 512, normalize="quantile", **of_rule)
        sidecar = Sidecar.open(write_sidecar(tok, root, tmp_path / f"tokens{rule is None}")[0], tok)
        sidecar.check_source(root)
        vlm = VlmVocab.paligemma(tok.vocab_size)
        dataset = LeRobotDataset("someone/arm", root=root, delta_timestamps={"action": [t / ours.hz for t in range(T)]})
        assert len(dataset) == len(sidecar)
        # Every chunk that runs over the end of its episode, and some that do not.
        filled = np.flatnonzero(sidecar.frames(np.arange(len(dataset))).real_steps < T)
        some = torch.utils.data.Subset(dataset, sorted({*filled.tolist(), *range(0, len(dataset), 25)}))
        first, second = (
            list(torch.utils.data.DataLoader(some, 64, num_workers=2, collate_fn=TorchCollate(s, vlm, max_len=128)))
            for s in (tok, sidecar)
        )
        for a, b in zip(first, second, strict=True):
            assert a.keys() == b.keys()
            for key in ("action.token_ids", "action.token_mask", "action.vlm_ids", "action.lost"):
                assert torch.equal(a[key], b[key]), key
            real_steps = sidecar.frames(b["index"]).real_steps
            assert (~b["action_is_pad"]).sum(1).tolist() == real_steps.tolist()
            assert len(b["task"]) == len(b["index"])
