"""Token ids of every frame of a LeRobot folder, in a folder beside it: the source is never changed.

A sidecar has one parquet file a data file of the source (a part, `parts`), a table of the parts, and a manifest
(`manifest`), which is written last: a folder without it is no sidecar. `plan_sidecar` says which parts there are,
`write_part` writes one of them, in any process and any order, and `SidecarPlan.finish` writes the manifest from what
the parts counted. `write_sidecar` does it all on one machine. `Sidecar` reads it back.
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
