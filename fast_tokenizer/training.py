"""Batches for a training loop: samples in; token ids, masks and VLM ids out, in one rectangle each.

The ids are encoded on the way, or read from a sidecar. For PyTorch there is `TorchCollate`; `NumpyCollate` does the
same without importing torch, for JAX and others, and `StaticBatches` gives every batch the same shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer._arguments import as_array, integer
from fast_tokenizer.mixture import MixtureSpec
from fast_tokenizer.prompt import MAX_LEN, Overlong
from fast_tokenizer.tokenizer import FastTokenizer
from fast_tokenizer.tokens import TokenBatch, first_ids
from fast_tokenizer.vlm import VlmVocab

if TYPE_CHECKING:
    from fast_tokenizer.sidecar import Sidecar

#: Columns of "action.lost": what was lost of each row, as `TokenBatch` counts it, and the ids that did not fit.
LOST = ("saturated", "clipped", "dropped", "cut")

#: Bytes to a multiple of which tensors begin that lie in one storage.
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True, eq=False)
class PaddedTokens:
    """N sequences of token ids as rectangles, padded on the right.

    Attributes:
        ids: (N, L) token ids; -1, which is no token id, where there is none.
        mask: (N, L) bool; true on tokens.
        vlm_ids: (N, L) VLM ids, filled up with the padding id; None without a VLM vocabulary.
        cut: (N,) int32; ids that were cut off at the end. A sequence that lost any can no longer be decoded.
    """

    ids: NDArray[np.signedinteger]
    mask: NDArray[np.bool_]
    vlm_ids: NDArray[np.signedinteger] | None
    cut: NDArray[np.int32]


def pad_tokens(
    tokens: TokenBatch,
    vlm: VlmVocab | None = None,
    *,
    max_len: int | None = None,
    overlong: Overlong = "refuse",
    pad_id: int = 0,
    dtype: type[np.int32] | type[np.int64] = np.int32,
) -> PaddedTokens:
    """Token ids, mask and VLM ids as rectangles.

    Args:
        tokens: N sequences.
        vlm: Where the token ids lie in the VLM's vocabulary; None: there are no VLM ids.
        max_len: Width L, the same for every batch; None: the longest sequence.
        overlong: Sequences longer than `max_len` are refused, or lose their end ("cut"), which is counted.
        pad_id: Fills the VLM ids.
        dtype: Of the ids.

    Raises:
        ValueError: A sequence is longer than `max_len`, or has an id that the VLM vocabulary has no room for; the
            padding id is an action token; or a bad option.

    Example:
        >>> padded = pad_tokens(TokenBatch.from_lists([[5, 6, 7], [8]]), VlmVocab.paligemma(2048), max_len=4)
        >>> padded.ids.tolist(), padded.vlm_ids.tolist()
        ([[5, 6, 7, -1], [8, -1, -1, -1]], [[257018, 257017, 257016, 0], [257015, 0, 0, 0]])
    """
    _check_vlm(vlm)
    _check_padding(vlm, overlong, pad_id)
    if max_len is not None:
        max_len = integer("max_len", max_len, 1, MAX_LEN, "positive")
    lengths = tokens.lengths
    longest = int(lengths.max(initial=0))
    width = longest if max_len is None else max_len
    if longest > width and overlong == "refuse":
        raise ValueError(
            f"row {int(lengths.argmax())} has {longest} token ids, more than max_len {width}; "
            f"{int((lengths > width).sum())} of {len(lengths)} rows are too long; recommend_max_len() says what would "
            "do, overlong='cut' cuts"
        )
    kept = np.minimum(lengths, width)
    mask = np.arange(width) < kept[:, None]
    flat = tokens.ids if longest <= width else first_ids(tokens, kept)
    ids = np.full(mask.shape, -1, dtype)
    ids[mask] = flat
    vlm_ids = None
    if vlm is not None:
        vlm_ids = np.full(mask.shape, pad_id, dtype)
        vlm_ids[mask] = vlm.to_vlm(flat)
    return PaddedTokens(ids, mask, vlm_ids, (lengths - kept).astype(np.int32))


def _check_vlm(vlm: VlmVocab | None) -> None:
    if vlm is not None and not isinstance(vlm, VlmVocab):
        raise ValueError(f"expected a VlmVocab or None, got {type(vlm).__name__}")


def _check_padding(vlm: VlmVocab | None, overlong: str, pad_id: int) -> None:
    if overlong not in get_args(Overlong):
        raise ValueError(f"overlong must be 'refuse' or 'cut', got {overlong!r}")
    if vlm is not None and vlm.is_action(pad_id):
        raise ValueError(f"VLM id {pad_id} pads, and is an action token: {vlm.describe()}; give a pad_id")


def _vocab_size(source: FastTokenizer | Sidecar) -> int:
    """Raises ValueError where ids come from neither, or from one of several embodiments."""
    if isinstance(source, FastTokenizer):
        if isinstance(source.spec, MixtureSpec):
            source.spec.require_one()
        return source.vocab_size
    from fast_tokenizer.sidecar import Sidecar

    if not isinstance(source, Sidecar):
        raise ValueError(f"expected a FastTokenizer or a Sidecar, got {type(source).__name__}")
    return source.manifest.vocab_size


class NumpyCollate:
    """Makes a batch of samples, with the token ids of their action chunks.

    A sample is a dict, such as LeRobot's datasets give with ``delta_timestamps={"action": [0, 1 / fps, ...]}``: the
    chunk (T, D) under "action", in raw units and filled with the last action where it runs over the end of the episode
    (`action_is_pad` is true there), the state (S,) under "observation.state", the task's text, and so on. All entries
    are stacked, texts are listed; added are, with the key of the actions in front:

    - ``action.token_ids`` (B, L) int32, padded with -1, and ``action.token_mask`` (B, L) bool,
    - ``action.vlm_ids`` (B, L) int32, with a VLM vocabulary,
    - ``action.lost`` (B, 4) int32: coefficients that saturated, values that were clipped, coefficients that were
      dropped (all as in `TokenBatch`), and ids that did not fit `max_len`; the columns are `LOST`,
    - ``row_mask`` (B,) bool, with a batch size: false on rows that fill up the last batch.

    It remembers nothing from call to call and uses one thread, so that it may run in forked and spawned workers.

    Example:
        >>> tok = FastTokenizer.default()
        >>> samples = [{"action": np.full((50, 7), v), "task": "wave"} for v in (0.0, 0.1, 0.2)]
        >>> collate = NumpyCollate(tok, VlmVocab.paligemma(tok.vocab_size), max_len=32, batch_size=4)
        >>> batch = collate(samples)
        >>> batch["action.token_ids"].shape, batch["action"].shape, batch["row_mask"].tolist()
        ((4, 32), (4, 50, 7), [True, True, True, False])
        >>> ids = batch["action.token_ids"][1][batch["action.token_mask"][1]]
        >>> ids.tolist() == tok.encode(samples[1]["action"][None])[0].tolist()
        True
    """

    _dtype: ClassVar[type[np.int32] | type[np.int64]] = np.int32

    def __init__(
        self,
        source: FastTokenizer | Sidecar,
        vlm: VlmVocab | None = None,
        *,
        max_len: int | None = None,
        overlong: Overlong = "refuse",
        pad_id: int | None = None,
        batch_size: int | None = None,
        action_key: str = "action",
        state_key: str = "observation.state",
    ) -> None:
        """Makes a collate function.

        Args:
            source: The tokenizer that encodes the chunks (of a mixture, ``tokenizer.embodiment(name)``); or a sidecar,
                of which the ids are read by the samples' `index`.
            vlm: Where the token ids lie in the VLM's vocabulary; None: there are no VLM ids.
            max_len: Width L, the same for every batch; None: the longest of each. `recommend_max_len` finds one; a
                sidecar has its `manifest.longest`.
            overlong: Rows longer than `max_len` are refused, or lose their end ("cut"), which is counted.
            pad_id: Fills the VLM ids. None: the vocabulary's own, or 0.
            batch_size: Rows B of every batch: a smaller one is filled up with copies of its last sample, whose rows
                have no token, and are false in `row_mask`.
            action_key: Of the chunks in a sample.
            state_key: Of the state at the chunk's start, where actions are relative to it.

        Raises:
            ValueError: The tokenizer has more tokens than the VLM was given room for, or several embodiments; the
                padding id is an action token; it is neither a tokenizer nor a sidecar; or a bad option.
        """
        vocab_size = _vocab_size(source)
        _check_vlm(vlm)
        if vlm is not None and vocab_size > vlm.vocab_size:
            raise ValueError(f"the tokenizer has {vocab_size} tokens, the VLM room for {vlm.vocab_size}")
        own = 0 if vlm is None or vlm.pad_id is None else vlm.pad_id
        self._pad_id = own if pad_id is None else integer("pad_id", pad_id, -(2**31), 2**31 - 1, "in int32")
        _check_padding(vlm, overlong, self._pad_id)
        self._max_len = None if max_len is None else integer("max_len", max_len, 1, MAX_LEN, "positive")
        self._batch_size = None if batch_size is None else integer("batch_size", batch_size, 1, 2**31 - 1, "positive")
        self._source, self._vlm, self._overlong = source, vlm, overlong
        self._action_key, self._state_key = action_key, state_key

    @property
    def max_len(self) -> int | None:
        """Width of every batch, or None."""
        return self._max_len

    @property
    def batch_size(self) -> int | None:
        """Rows of every batch, or None."""
        return self._batch_size

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch of samples; see the class.

        Raises:
            ValueError: There is no sample; a sample has no chunk, state or frame number where that is needed; chunks
                that the tokenizer does not take; frames that the sidecar does not have, or of which it knows another
                episode; a sequence is longer than `max_len`; more samples than the batch size; or they have entries
                of the names that are added.
        """
        rows = len(samples)
        if not rows:
            raise ValueError("got no samples")
        if self._batch_size is not None:
            if rows > self._batch_size:
                raise ValueError(f"got {rows} samples, more than batch_size {self._batch_size}")
            samples = [*samples, *[samples[-1]] * (self._batch_size - rows)]
        batch = self._collated(samples)
        tokens = self._encoded(batch) if isinstance(self._source, FastTokenizer) else self._read(batch, self._source)
        if len(tokens) != len(samples):  # lists of lists, of which PyTorch makes batches of its own
            raise ValueError(
                f"{len(samples)} samples gave {len(tokens)} rows: expected arrays or tensors, a chunk or a number each"
            )
        if rows < len(samples):
            tokens = _emptied(tokens, rows)
        padded = pad_tokens(
            tokens,
            self._vlm,
            max_len=self._max_len,
            overlong=self._overlong,
            pad_id=self._pad_id,
            dtype=self._dtype,
        )
        added: dict[str, NDArray[Any]] = {"token_ids": padded.ids, "token_mask": padded.mask}
        if padded.vlm_ids is not None:
            added["vlm_ids"] = padded.vlm_ids
        added["lost"] = np.stack([tokens.saturated, tokens.clipped, tokens.dropped, padded.cut], 1).astype(self._dtype)
        named = {f"{self._action_key}.{name}": values for name, values in added.items()}
        if self._batch_size is not None:
            named["row_mask"] = np.arange(len(samples)) < rows
        if taken := named.keys() & batch.keys():
            raise ValueError(f"the samples have {sorted(taken)} already, which would be overwritten: leave them out")
        return batch | self._out(named)

    def _collated(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The samples' own entries as a batch."""
        batch: dict[str, Any] = _stacked(samples, "samples")
        return batch

    def _out(self, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Arrays as the framework has them."""
        return arrays

    def _encoded(self, batch: Mapping[str, Any]) -> TokenBatch:
        assert isinstance(self._source, FastTokenizer)
        chunks = as_array(self._entry(batch, self._action_key))
        if chunks.ndim != 3:
            raise ValueError(
                f"{self._action_key!r}: expected chunks (T, D), got {chunks.shape[1:]}; LeRobot gives them with "
                "delta_timestamps={'action': [0, 1 / fps, ...]}"
            )
        state = None
        if self._source.takes_state:
            state = as_array(self._entry(batch, self._state_key))
            if state.ndim == 3 and state.shape[1] == 1:
                state = state[:, 0]
            if state.ndim != 2:
                raise ValueError(
                    f"{self._state_key!r}: expected the state (S,) at the chunk's start, got {state.shape[1:]}"
                )
        return self._source.encode(chunks, num_threads=1, state=state)

    def _read(self, batch: Mapping[str, Any], sidecar: Sidecar) -> TokenBatch:
        frames = sidecar.frames(as_array(self._entry(batch, "index")).reshape(-1))
        for name in ("episode_index", "frame_index"):
            if name in batch and (wrong := as_array(batch[name]).reshape(-1) != getattr(frames, name)).any():
                i = int(wrong.argmax())
                raise ValueError(
                    f"sample {i}, frame {frames.index[i]}, has {name} {as_array(batch[name]).reshape(-1)[i]}, but in "
                    f"{sidecar.path} that is {getattr(frames, name)[i]}: it was written from another dataset"
                )
        shape, horizon = np.shape(batch.get(self._action_key, ())), sidecar.manifest.horizon
        if len(shape) == 3 and shape[1] != horizon:
            raise ValueError(
                f"{self._action_key!r}: has chunks of {shape[1]} steps, those of {sidecar.path} have {horizon}"
            )
        return frames.tokens

    @staticmethod
    def _entry(batch: Mapping[str, Any], key: str) -> Any:
        if key not in batch:
            raise ValueError(f"the samples have no {key!r}, only {sorted(batch)}")
        return batch[key]


class TorchCollate(NumpyCollate):
    """The same with tensors, for `torch.utils.data.DataLoader(collate_fn=...)`.

    Entries of the samples are collated as PyTorch does by default; token ids, VLM ids and what was lost are int64.
    Arguments, errors and what is added to the batch are those of `NumpyCollate`.

    Example:
        >>> tok = FastTokenizer.default()
        >>> samples = [{"action": torch.full((50, 7), v), "task": "wave"} for v in (0.0, 0.1, 0.2)]
        >>> collate = TorchCollate(tok, VlmVocab.paligemma(tok.vocab_size))
        >>> loader = torch.utils.data.DataLoader(samples, batch_size=3, collate_fn=collate)
        >>> batch = next(iter(loader))
        >>> batch["action.vlm_ids"].dtype, batch["action.token_mask"].sum(1).tolist() == tok.encode(
        ...     batch["action"].numpy()).lengths.tolist()
        (torch.int64, True)
    """

    _dtype = np.int64

    def _collated(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        from torch.utils.data import default_collate

        if not isinstance(samples[0], Mapping):  # all are alike, or PyTorch says so
            raise ValueError(f"expected samples that are dicts, got {type(samples[0]).__name__}")
        return dict(default_collate(list(samples)))

    def _out(self, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
        import torch
        from torch.utils.data import get_worker_info

        tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
        if get_worker_info() is None:
            return tensors
        # The main process takes a quarter of a millisecond to receive a storage, however many tensors lie in it.
        ends = np.cumsum([-(-values.nbytes // _ALIGNMENT) * _ALIGNMENT for values in arrays.values()]).tolist()
        storage = torch.empty(ends[-1], dtype=torch.uint8)
        for (name, tensor), begin in zip(tensors.items(), [0, *ends[:-1]], strict=True):
            place = storage[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            tensors[name] = place.copy_(tensor)
        return tensors


class StaticBatches:
    """Batches of one shape from any samples in order: nothing is compiled twice for them.

    The last batch, where it is smaller, is filled up ("pad", see `NumpyCollate`) or left out ("drop").

    Attributes:
        left_out: Samples that the last iteration left out.
        filled: Rows that the last iteration filled up.

    Example:
        >>> tok = FastTokenizer.default()
        >>> samples = [{"action": np.full((50, 7), 0.01 * i)} for i in range(10)]
        >>> batches = StaticBatches(samples, NumpyCollate(tok, max_len=32, batch_size=4), last="pad")
        >>> [int(batch["row_mask"].sum()) for batch in batches], batches.filled
        ([4, 4, 2], 2)
        >>> batches = StaticBatches(samples, NumpyCollate(tok, max_len=32, batch_size=4), last="drop")
        >>> [int(batch["row_mask"].sum()) for batch in batches], batches.left_out
        ([4, 4], 2)
    """

    def __init__(
        self, samples: Iterable[Mapping[str, Any]], collate: NumpyCollate, *, last: Literal["pad", "drop"]
    ) -> None:
        """Batches of samples.

        Args:
            samples: Read one batch at a time, anew at every iteration; a generator has one, and a second is refused.
            collate: With a `max_len` and a `batch_size`.
            last: What becomes of a last batch that is smaller.

        Raises:
            ValueError: The collate function is another, or has no fixed shape; or a bad option.
        """
        if not isinstance(collate, NumpyCollate):
            raise ValueError(f"expected a NumpyCollate or TorchCollate, got {type(collate).__name__}")
        if collate.batch_size is None or collate.max_len is None:
            raise ValueError("batches of one shape need a collate function with max_len=... and batch_size=...")
        if last not in ("pad", "drop"):
            raise ValueError(f"last must be 'pad' or 'drop', got {last!r}")
        self._samples, self._collate, self._last = samples, collate, last
        self._rows, self._is_spent = collate.batch_size, False
        self.left_out = self.filled = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.left_out = self.filled = 0
        held: list[Mapping[str, Any]] = []
        samples = iter(self._samples)
        if self._is_spent:
            raise ValueError("the samples are an iterator, which was read: give what can be read anew, such as a list")
        self._is_spent = samples is self._samples
        for sample in samples:
            held.append(sample)
            if len(held) == self._rows:
                yield self._collate(held)
                held = []
        if held and self._last == "pad":
            self.filled = self._rows - len(held)
            yield self._collate(held)
        else:
            self.left_out = len(held)


def _emptied(tokens: TokenBatch, rows: int) -> TokenBatch:
    """The same sequences with those after the first `rows` empty, and nothing counted of them."""
    head = tokens[:rows]
    more = len(tokens) - rows
    return TokenBatch.concatenate([head, TokenBatch.from_lists([[]] * more)])


def _stacked(values: Sequence[Any], where: str) -> Any:
    """Dicts of arrays, numbers and texts as one dict of arrays and lists."""
    first = values[0]
    if isinstance(first, Mapping):
        if any(not isinstance(v, Mapping) or v.keys() != first.keys() for v in values):
            raise ValueError(f"{where}: expected dicts with the keys {sorted(first)}, as the first has")
        return {key: _stacked([v[key] for v in values], str(key)) for key in first}
    if where == "samples":
        raise ValueError(f"expected samples that are dicts, got {type(first).__name__}")
    if isinstance(first, str) or first is None:
        return list(values)
    arrays = [as_array(v) if hasattr(v, "detach") else np.asarray(v) for v in values]
    kinds = {a.dtype.kind for a in arrays}
    if len(kinds) > 1 and not kinds <= set("biufc"):  # NumPy would make texts of numbers, or objects
        raise ValueError(f"{where!r}: the samples have {sorted({str(a.dtype) for a in arrays})}, which do not stack")
    if len({a.shape for a in arrays}) > 1:
        raise ValueError(
            f"{where!r}: the samples have shapes {sorted({a.shape for a in arrays})[:3]}, which do not stack"
        )
    return np.stack(arrays)
