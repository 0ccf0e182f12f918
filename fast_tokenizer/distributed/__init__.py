"""Fitting and encoding on a Ray cluster, with the result of one machine (extra `ray`).

What is done where:

- Ray Data runs tasks that read trajectories, take statistics, cut and quantize (`trajectories.py`). What they return, a
  *piece* (`pieces.py`), stays in the cluster's object store; the driver sees counts and histograms.
- One actor on each node holds the symbols of its share of the pieces, in the C++ shards that threads use too
  (`shards.py`). The driver adds up what they count, and picks the merges.
- Whatever is lost with a node is made again: a task is run again; an actor is filled again from its pieces and applies
  the merges so far again. Nothing is counted twice, since the driver takes one answer from each share for each call.

`docs/scaling.md` has the figures.
"""

from fast_tokenizer.distributed.cluster import connect
from fast_tokenizer.distributed.corpus import RayCorpus
from fast_tokenizer.distributed.encoding import encode_trajectories, write_sidecar
from fast_tokenizer.distributed.trajectories import TrajectoryChunks

__all__ = ["RayCorpus", "TrajectoryChunks", "connect", "encode_trajectories", "write_sidecar"]
