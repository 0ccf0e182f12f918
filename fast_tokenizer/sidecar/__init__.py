"""Token ids of every frame of a LeRobot folder, in a folder beside it: the source is never changed.

A sidecar has one parquet file a data file of the source (a part, `parts`), a table of the parts, and a manifest
(`manifest`), which is written last: a folder without it is no sidecar. `plan_sidecar` says which parts there are,
`write_part` writes one of them, in any process and any order, and `SidecarPlan.finish` writes the manifest from what
the parts counted. `write_sidecar` does it all on one machine. `Sidecar` reads it back.

Example:
    A LeRobot folder of one episode, its sidecar, and the ids of two frames:

    >>> import json, pyarrow.parquet
    >>> from pathlib import Path
    >>> from fast_tokenizer import FastTokenizer
    >>> for folder in ("robot/meta", "robot/data"):
    ...     Path(folder).mkdir(parents=True)
    >>> info = {"codebase_version": "v2.1", "fps": 10, "data_path": "data/{episode_index}.parquet"}
    >>> _ = Path("robot/meta/info.json").write_text(json.dumps(info))
    >>> _ = Path("robot/meta/episodes.jsonl").write_text(json.dumps({"episode_index": 0, "length": 30}))
    >>> table = {"action": [[0.1 * t, 0.0] for t in range(30)], "index": range(30)}
    >>> pyarrow.parquet.write_table(pyarrow.table(table), "robot/data/0.parquet")

    >>> tok = FastTokenizer.default()
    >>> path, manifest = write_sidecar(tok, "robot", horizon=10)
    >>> str(path), manifest.frames, manifest.filled_frames
    ('robot.tokens', 30, 9)
    >>> sidecar = Sidecar.open("robot.tokens", tok)
    >>> frames = sidecar.frames([4, 27])
    >>> frames.real_steps.tolist()
    [10, 3]
    >>> chunk = np.array([[0.1 * min(t, 29), 0.0] for t in range(27, 37)])
    >>> frames.tokens[1].tolist() == tok.encode(chunk[None])[0].tolist()
    True
"""

from __future__ import annotations

from fast_tokenizer.sidecar.manifest import Manifest
from fast_tokenizer.sidecar.parts import PartCounts, PartJob, PartRules, write_part
from fast_tokenizer.sidecar.plan import SidecarPlan, plan_sidecar, write_sidecar
from fast_tokenizer.sidecar.reading import Frames, Sidecar

__all__ = [
    "Frames",
    "Manifest",
    "PartCounts",
    "PartJob",
    "PartRules",
    "Sidecar",
    "SidecarPlan",
    "plan_sidecar",
    "write_part",
    "write_sidecar",
]
