"""`FastTokenizer`: fit, encode, decode, save, load."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fast_tokenizer import format as artefact
from fast_tokenizer._arguments import MAX_ACTION_DIM, check_errors, integer, thread_count
from fast_tokenizer._core import MAX_HORIZON
from fast_tokenizer.chunk import ChunksLike, one_block
from fast_tokenizer.decode_status import DecodeStatus
from fast_tokenizer.errors import ArtefactError, DecodeError, DecodeRepairWarning
from fast_tokenizer.fitting import (
    ChunksOnWorkers,
    EmbodimentData,
    Engine,
    FitOptions,
    FitPart,
    FitSummary,
    Progress,
    check_weights,
    fit_parts,
    fit_spec,
    weighted,
)
from fast_tokenizer.layout import place
from fast_tokenizer.mixed_batch import (
    Group,
    chunks_of,
    each_group,
    groups,
    in_order,
    require_state,
    stacked,
    state_without_padding_of,
    states_of,
    without_padding_of,
)
from fast_tokenizer.mixture import MixtureSpec
from fast_tokenizer.normalize import Normalizer, NormalizerKind
from fast_tokenizer.relative import Relative, RelativeLike, relative_chunks, to_rule
from fast_tokenizer.spec import EndOfBlock, Order, Parsing, TokenizerSpec
from fast_tokenizer.tokens import TokenBatch, TokensLike

if TYPE_CHECKING:
    from fast_tokenizer._core import Codec
    from fast_tokenizer.compat.published import PublishedCodec, PublishedSpec

#: What a tokenizer is made of: this library's own contents, of one embodiment or of several, or those of a published
#: FAST artefact.
Spec: TypeAlias = "TokenizerSpec | MixtureSpec | PublishedSpec"


def default_file(order: Order) -> str:
    """Name of the bundled artefact."""
    return f"default_{order.replace('-', '_')}.json"


class FastTokenizer:
    """FAST action tokenizer: DCT along time, scale and round, byte-pair encoding (arXiv 2501.09747).

    Immutable; usable from several threads, and in forked or spawned workers. Get one from `fit`, `load` or `default`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> chunks = np.cumsum(rng.normal(0, 0.02, (200, 50, 7)), axis=1)
        >>> tok = FastTokenizer.fit(chunks, vocab_size=256)
        >>> batch = tok.encode(chunks)
        >>> x = tok.decode(batch)
        >>> x.shape, bool(abs(x - chunks).max() < 0.2)
        ((200, 50, 7), True)
    """

    __slots__ = ("_codec", "_fit_summary", "_members", "_spec")

    def __init__(self, spec: Spec, fit_summary: FitSummary | None = None) -> None:
        self._spec = spec
        self._fit_summary = fit_summary
        members = spec.members if isinstance(spec, MixtureSpec) else ()
        self._members = {str(member.embodiment): FastTokenizer(member) for member in members}
        first = next(iter(self._members.values()), None)
        self._codec: Codec | PublishedCodec = spec.codec() if first is None else first._codec

    # ---- Making one ------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        chunks: ChunksLike | ChunksOnWorkers,
        vocab_size: int = 1024,
        scale: float | Sequence[float] | None = None,
        *,
        min_frequency: int = 2,
        normalize: Normalizer | NormalizerKind | None = None,
        clip: float | None = None,
        range_quantile: float = 1.0,
        order: Order = "frequency-first",
        end_of_block: EndOfBlock | None = "chunk",
        parsing: Parsing = "bpe",
        dead_zone: float = 0.5,
        levels_beyond: int | None = None,
        target_rmse: ArrayLike | None = None,
        target_max_error: ArrayLike | None = None,
        max_token_symbols: int = 1024,
        dimension_names: Sequence[str] | None = None,
        hz: float | None = None,
        max_chunks: int | None = None,
        sample_fraction: float | None = None,
        seed: int = 0,
        relative: RelativeLike | None = None,
        state: ArrayLike | None = None,
        memory_budget: int | None = None,
        spill_directory: str | os.PathLike[str] | None = None,
        num_threads: int | None = None,
        engine: Engine = "threads",
        progress: Progress | None = None,
        compat: Literal["published"] | None = None,
    ) -> FastTokenizer:
        """Fits the vocabulary on chunks.

        The result depends on the chunks only: not on their order, the number of threads, the memory budget or the
        machine. Their order does decide which of them are in the sample of `max_chunks`; the scales that targets need
        of more than 2^22 values; and, in the last digits, the statistics that `NormalizerStatistics` takes of more than
        2^20 steps.

        Nothing is held but a compact corpus, for smooth data about 2 bytes a coefficient while training, where `chunks`
        are

        - an iterable that can be read again (``iter(chunks) is not chunks``, and no list): with statistics to take it
          is read twice, block by block;
        - an iterator, with no statistics to take or with `max_chunks`: it is read once, block by block;
        - an array, which may be memory-mapped; statistics take one dimension of it at a time.

        An iterator of which statistics are to be taken is read into memory first. A list is copied for that.

        A fit that is interrupted leaves nothing behind, and starts from the beginning: reading the data is most of the
        work, and a checkpoint would not spare it.

        Args:
            chunks: (N, T, D) array, or an iterable of (T_i, D) or (N_i, T_i, D) arrays; float32 or float64.
            vocab_size: Token ids, symbols included. Fewer result when no pair occurs `min_frequency` times any more.
            scale: Factor on the coefficients before rounding; a number, or one per dimension. A coefficient is off by
                at most ``0.5 / scale`` after decoding. None: 10, or what the targets need.
            min_frequency: Pairs that occur less often are not merged.
            normalize: None: chunks are taken as they are. Otherwise statistics to take from them ("quantile",
                "min-max", "mean-std", "identity"), or a `Normalizer`. Statistics of arrays and of what is held in
                memory are exact, those of what is read block by block as `NormalizerStatistics` takes them.
            clip: Bound on normalised values, with statistics to take. None keeps everything.
            range_quantile: Share of the coefficients, in [0.99, 1], that each end of the range keeps; what lies beyond
                saturates. 1 keeps all; 0.99999 spares the vocabulary an outlier's symbols. Most coefficients are 0, so
                that 0.99 already cuts a good part of those that are not.
            order: Of a chunk's coefficients: "frequency-first" puts the slow part of all dimensions first, so that the
                first tokens of a chunk already mean something (`fast_tokenizer.prefix`). "dimension-first" takes one
                dimension after the other: a tenth fewer tokens, more with an end of block.
            end_of_block: What ends early where all that is left is coefficient 0: the "chunk", or each "dimension",
                which goes with dimension-first order and takes fewer tokens still. None: nothing does, as in the
                published format, which `save_pretrained` writes.
            parsing: "bpe" makes the merges in their order; "optimal" takes as few tokens as spell the chunk, about 1 %
                fewer, in several times the time.
            dead_zone: Scaled coefficients below this in magnitude become 0; in [0.5, 0.99]. 0.5 is plain rounding. At
                0.65 and a scale some 6 % higher the root mean square error is the same, with some 3 % fewer tokens.
            levels_beyond: Symbols on each side of the fitted range for what lies beyond it, evenly spaced to twice its
                end: a coefficient there comes back within half a spacing, and still counts as saturated. None: one for
                every 128 ids, where there is room. 0: what lies beyond takes the range's end, as in the published
                format.
            target_rmse: Root mean square error that each dimension is to keep, in raw units: a number, or one per
                dimension. The scale of each is then about the smallest at which all chunks that are fitted on keep it
                (`fast_tokenizer.scales`; what `clip` cuts is not counted). An iterator, or the sample of `max_chunks`,
                is held in memory for it. Held-out chunks may miss it.
            target_max_error: Largest error of any value that each dimension is to keep, likewise.
            max_token_symbols: Longest run of symbols that one token may stand for.
            dimension_names: D names, recorded in the artefact.
            hz: Control rate, recorded in the artefact.
            max_chunks: Fit on a uniform sample of that many chunks, drawn while all are read once. Statistics are still
                taken from all of them, but the range of the coefficients is that of the sample. None: fit on all.
            sample_fraction: The same by their share, in (0, 1]; chunks that are no array or list are read once more to
                count them.
            seed: Of the sample.
            relative: Dimensions that are fitted, encoded and decoded relative to the state at a chunk's start: their
                indices (each is relative to the state's column of the same index), or a `Relative`. Statistics and clip
                are those of relative actions. Chunks that are in memory are copied for it.
            state: (N, S) the states at the chunks' starts, with `relative`; raw units.
            memory_budget: Bytes that the corpus and its training may take; what is beyond goes to memory-mapped
                temporary files, which have no name and vanish with the fit, whatever ends it. None: all in memory.
                A sample, or an iterator that has to be held, comes on top until it is quantized.
            spill_directory: Folder of these files; None: the system's folder for temporary files, which on some
                systems is memory.
            num_threads: Threads; None: all cores.
            engine: "threads" of this process; or "ray", the cluster that this process is connected to, or that
                `ray.init()` finds or starts, with the same result (extra `ray`). Chunks in memory are sent there;
                `fast_tokenizer.distributed.TrajectoryChunks` are read there.
            progress: See `Progress`.
            compat: "published" gives the very merges that the published FAST code fits, over bytes of text: for results
                that must stay comparable. It has no option but `vocab_size` and `scale`, holds all chunks in memory,
                and needs more tokens.

        Raises:
            ValueError: Bad chunks (the message names chunk, time step and dimension) or options; a vocabulary smaller
                than the range of the coefficients.
            OSError: The spill directory cannot take what is beyond the memory budget.

        Example:
            Data that is read from disk, twice, and never held:

            >>> class Episodes:
            ...     def __iter__(self):
            ...         for seed in range(20):
            ...             walk = np.random.default_rng(seed).normal(0, 0.1, (400, 7)).cumsum(axis=0)
            ...             yield walk.reshape(8, 50, 7)
            >>> tok = FastTokenizer.fit(Episodes(), 512, normalize="quantile", max_chunks=100)
            >>> tok.fit_summary.chunks, tok.fit_summary.chunks_left_out
            (100, 60)
        """
        options = FitOptions(
            vocab_size=vocab_size,
            scale=scale,
            min_frequency=min_frequency,
            normalize=normalize,
            clip=clip,
            range_quantile=range_quantile,
            order=order,
            end_of_block=end_of_block,
            parsing=parsing,
            dead_zone=dead_zone,
            levels_beyond=levels_beyond,
            target_rmse=target_rmse,
            target_max_error=target_max_error,
            max_token_symbols=max_token_symbols,
            dimension_names=dimension_names,
            hz=hz,
            max_chunks=max_chunks,
            sample_fraction=sample_fraction,
            seed=seed,
            relative=_fit_rule(chunks, relative, state),
            memory_budget=memory_budget,
            spill_directory=spill_directory,
            num_threads=num_threads,
            engine=engine,
        )
        report: Progress = progress or (lambda *_: None)
        if compat is None:
            return cls(*fit_spec(_fit_chunks(chunks, options, state), options, report))
        if compat != "published":
            raise ValueError(f"compat must be 'published' or None, got {compat!r}")
        if isinstance(chunks, ChunksOnWorkers) or engine != "threads":
            raise ValueError("compat='published' fits on one machine: give chunks, and engine='threads'")
        from fast_tokenizer.compat.fitting import fit_published

        return cls(*fit_published(chunks, options, report))

    @classmethod
    def fit_mixture(
        cls,
        embodiments: Mapping[str, EmbodimentData],
        vocab_size: int = 1024,
        *,
        min_frequency: int = 2,
        range_quantile: float = 1.0,
        order: Order = "frequency-first",
        end_of_block: EndOfBlock | None = "chunk",
        parsing: Parsing = "bpe",
        dead_zone: float = 0.5,
        levels_beyond: int | None = None,
        max_token_symbols: int = 1024,
        seed: int = 0,
        memory_budget: int | None = None,
        spill_directory: str | os.PathLike[str] | None = None,
        num_threads: int | None = None,
        engine: Engine = "threads",
        progress: Progress | None = None,
    ) -> FastTokenizer:
        """Fits one vocabulary for several embodiments: normaliser, scale, T, D and relative rule are each one's own.

        A weight is the share of the coefficients, of those that the vocabulary is fitted on. Nothing is repeated for
        it: the embodiment that has the fewest coefficients for its weight is fitted on whole, of the others a uniform
        sample is. `FitSummary.embodiments` says how many chunks that leaves out. Statistics are of all chunks; the
        range of the coefficients is that of the samples.

        Args:
            embodiments: The data of each, by name.
            vocab_size: As for `fit`; so are the other options.
            min_frequency: As for `fit`.
            range_quantile: As for `fit`; of the coefficients of all embodiments together.
            order: As for `fit`.
            end_of_block: As for `fit`.
            parsing: As for `fit`.
            dead_zone: As for `fit`.
            levels_beyond: As for `fit`.
            max_token_symbols: As for `fit`.
            seed: Of the samples that weights and `max_chunks` make.
            memory_budget: As for `fit`.
            spill_directory: As for `fit`.
            num_threads: As for `fit`.
            engine: As for `fit`.
            progress: As for `fit`.

        Raises:
            ValueError: As for `fit`, and names the embodiment; weights that are not positive, or given for some only.

        Example:
            >>> walk = np.random.default_rng(0).normal(0, 0.1, (300, 50, 14)).cumsum(axis=1)
            >>> tok = FastTokenizer.fit_mixture(
            ...     {
            ...         "droid": EmbodimentData(walk[:, :15, :7], weight=1, normalize="quantile", hz=15.0),
            ...         "aloha": EmbodimentData(walk, weight=3, normalize="quantile", hz=50.0),
            ...     }
            ... )
            >>> [(name, e.chunks, round(e.share, 2)) for name, e in tok.fit_summary.embodiments.items()]
            [('droid', 300, 0.25), ('aloha', 135, 0.75)]
            >>> tok.decode(tok.encode(walk, embodiment="aloha"), embodiment="aloha").shape
            (300, 50, 14)
        """
        shared = {
            "vocab_size": vocab_size,
            "min_frequency": min_frequency,
            "range_quantile": range_quantile,
            "order": order,
            "end_of_block": end_of_block,
            "parsing": parsing,
            "dead_zone": dead_zone,
            "levels_beyond": levels_beyond,
            "max_token_symbols": max_token_symbols,
            "seed": seed,
            "memory_budget": memory_budget,
            "spill_directory": spill_directory,
            "num_threads": num_threads,
            "engine": engine,
        }
        report: Progress = progress or (lambda *_: None)
        parts: list[FitPart] = []
        for name, data in embodiments.items():
            try:
                options = FitOptions(
                    scale=data.scale,
                    target_rmse=data.target_rmse,
                    target_max_error=data.target_max_error,
                    normalize=data.normalize,
                    clip=data.clip,
                    dimension_names=data.dimension_names,
                    hz=data.hz,
                    max_chunks=data.max_chunks,
                    relative=_fit_rule(data.chunks, data.relative, data.state),
                    **shared,  # type: ignore[arg-type]
                )
                parts.append(FitPart(_fit_chunks(data.chunks, options, data.state), options, name))
            except ValueError as error:
                raise ValueError(f"embodiment {name!r}: {error}") from None
        weights = [data.weight for data in embodiments.values()]
        if not parts:
            raise ValueError("got no embodiments to fit on")
        if check_weights(weights):
            parts = weighted(parts, [w for w in weights if w is not None], report)
        return cls.of_parts(parts, report)

    @classmethod
    def of_parts(cls, parts: Sequence[FitPart], report: Progress) -> FastTokenizer:
        """What `fit_parts` makes of parts, which are as it takes them."""
        specs, summary = fit_parts(parts, report)
        return cls(specs[0] if len(specs) == 1 else MixtureSpec(tuple(specs)), summary)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FastTokenizer:
        """Reads a saved tokenizer from its folder (or the JSON file itself), or a published one from its folder.

        Raises:
            FileNotFoundError: There is none.
            ArtefactError: It is damaged, of another version, or no training could have produced it.
        """
        file = artefact.file_in(path)
        if Path(path).is_dir() and not file.exists():
            from fast_tokenizer.compat import artefact as published

            return cls._from_artefact(published.load(path), str(path))
        return cls._from_artefact(artefact.load(file), str(file))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> FastTokenizer:
        """A tokenizer from a folder or from the Hugging Face hub: published (FAST+ and its like), or of this library.

        A published one gives the very ids of the published code, which also means: it drops coefficients where that
        code drops them. `TokenBatch` counts them. No remote code is run.

        Args:
            name_or_path: A folder, which is read offline; or a hub id such as ``"physical-intelligence/fast"``, which
                needs `huggingface_hub` and goes through its cache.
            revision: Branch, tag or commit, of a hub id.
            token: Access token for a hub id; None: the one that was logged in with.
            cache_dir: Cache for a hub id; None: that of `huggingface_hub`.
            force_download: Fetch a hub id anew.
            local_files_only: Take a hub id from the cache only.

        Raises:
            FileNotFoundError: There is no such folder or repository, or it has no tokenizer.
            ArtefactError: As for `load`; or it is no FAST tokenizer. The message says what differs.

        Example:
            ``tok = FastTokenizer.from_pretrained("physical-intelligence/fast")``
        """
        path = Path(name_or_path)
        if not path.is_dir() and str(name_or_path).count("/") <= 1 and not path.is_absolute():
            from fast_tokenizer.compat.artefact import download

            path = download(
                str(name_or_path),
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
            )
        return cls.load(path)

    @classmethod
    def default(cls, order: Order = "frequency-first") -> FastTokenizer:
        """A bundled tokenizer, for a start without data: takes chunks of any T and D, normalised to about [-1, 1].

        A vocabulary fitted on your own robot needs fewer tokens. `NOTICE` names the data that these were fitted on.

        Args:
            order: "frequency-first", coarse to fine; or "dimension-first", which takes about a sixth fewer tokens.

        Raises:
            ValueError: Another order.
        """
        if order not in get_args(Order):
            raise ValueError(f"order must be one of {get_args(Order)}, got {order!r}")
        file = resources.files("fast_tokenizer") / "data" / default_file(order)
        return cls._from_artefact(artefact.loads(file.read_bytes(), "bundled default tokenizer"), file.name)

    @classmethod
    def _from_artefact(cls, spec: Spec, where: str) -> FastTokenizer:
        try:
            return cls(spec)
        except ValueError as error:  # the core's own check of the merges
            raise ArtefactError(f"{where}: {error}") from None

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes ``directory/fast_tokenizer.json``, replacing an old one at once or not at all.

        Raises:
            ValueError: A published tokenizer; or `save_pretrained` wrote another form of one into the directory.
        """
        if not isinstance(self.spec, TokenizerSpec | MixtureSpec):
            raise ValueError("a published tokenizer is saved by save_pretrained, in its own format")
        if (Path(directory) / "processor_config.json").exists():
            raise ValueError(
                f"{directory} holds a tokenizer in the published format, which would then be another one; "
                "save_pretrained replaces both forms"
            )
        artefact.save(self.spec, Path(directory) / artefact.FILE_NAME)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes a folder that `transformers` and `tokenizers` load; see `fast_tokenizer.compat.export.export_hf`.

        Raises:
            ValueError: The published format cannot express this tokenizer. Nothing is written.
        """
        from fast_tokenizer.compat.export import export_hf

        export_hf(self, directory)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        commit_message: str | None = None,
        token: str | bool | None = None,
    ) -> str:
        """Uploads what `save_pretrained` writes; see `fast_tokenizer.compat.export.push_to_hub`."""
        from fast_tokenizer.compat import export

        return export.push_to_hub(self, repo_id, private=private, commit_message=commit_message, token=token)

    # ---- What it is ------------------------------------------------------------------------------

    @property
    def spec(self) -> Spec:
        """Everything that decides the tokens."""
        return self._spec

    @property
    def embodiments(self) -> tuple[str, ...]:
        """Names of the embodiments; none where there is but one without a name."""
        if self._members:
            return tuple(self._members)
        return () if self.spec.embodiment is None else (self.spec.embodiment,)

    def embodiment(self, name: str) -> FastTokenizer:
        """The tokenizer of one embodiment: the same ids, and its own scale, normaliser, shape and relative rule.

        Whatever takes a tokenizer (`PromptBuilder`, `ActionGrammar`, `evaluate`, ...) takes this one.

        Raises:
            ValueError: There is none of that name.
        """
        if name not in self.embodiments:
            there_are = f"there are {', '.join(map(repr, self.embodiments))}" if self.embodiments else "it has no names"
            raise ValueError(f"no embodiment of this tokenizer is called {name!r}; {there_are}")
        return self._members.get(name, self)

    @property
    def takes_state(self) -> bool:
        """Some dimensions are relative to the state, so that `encode` and `decode` need ``state=``."""
        specs = self.spec.members if isinstance(self.spec, MixtureSpec) else (self.spec,)
        return any(isinstance(s, TokenizerSpec) and s.relative is not None for s in specs)

    def without_relative(self) -> FastTokenizer:
        """The same for chunks that are relative already: it takes and gives relative actions, and no state."""
        if self._members:
            assert isinstance(self.spec, MixtureSpec)
            return FastTokenizer(MixtureSpec(tuple(replace(m, relative=None) for m in self.spec.members)))
        if not isinstance(self.spec, TokenizerSpec) or self.spec.relative is None:
            return self
        return FastTokenizer(replace(self.spec, relative=None))

    @property
    def one_spec(self) -> TokenizerSpec | PublishedSpec:
        """The spec, for what makes sense for one embodiment only.

        Raises:
            ValueError: There are several; names them.
        """
        if isinstance(self.spec, MixtureSpec):
            self.spec.require_one()
        return self.spec

    def _one(self, embodiment: str | None) -> FastTokenizer:
        """The tokenizer that a call is about."""
        if embodiment is not None:
            return self.embodiment(embodiment)
        if isinstance(self.spec, MixtureSpec):
            self.spec.require_one()
        return self

    def _mixture(self) -> MixtureSpec:
        if isinstance(self.spec, TokenizerSpec) and self.spec.embodiment is not None:
            return MixtureSpec((self.spec,))
        if not isinstance(self.spec, MixtureSpec):
            raise ValueError("this tokenizer has no named embodiments: leave out embodiment=...")
        return self.spec

    @property
    def fit_summary(self) -> FitSummary | None:
        """What `fit` counted; None for a tokenizer that was loaded."""
        return self._fit_summary

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.spec.vocab_size

    @property
    def merges(self) -> NDArray[np.int32]:
        """(M, 2) read-only: merge i joins two ids into id ``vocab_size - M + i`` (not so in published ones)."""
        return self.spec.merges

    @property
    def expansion_lengths(self) -> NDArray[np.int32]:
        """(vocab_size,): number of symbols that each token id stands for."""
        return self._codec.expansion_lengths()

    def fingerprint(self) -> str:
        """SHA-256 of the artefact: two tokenizers with the same one give the same tokens, on every machine."""
        return artefact.fingerprint(self.spec)

    # ---- Using it --------------------------------------------------------------------------------

    def encode(
        self,
        chunks: ChunksLike,
        num_threads: int | None = None,
        *,
        state: ArrayLike | None = None,
        embodiment: str | Sequence[str] | None = None,
    ) -> TokenBatch:
        """Turns chunks into token ids.

        Args:
            chunks: (N, T, D) array, or an iterable of (T_i, D) or (N_i, T_i, D) arrays; float32 or float64, raw units
                when the artefact has a normaliser, normalised otherwise. With one name a chunk: a list of N arrays
                (T_i, D_i), or an array. Of a mixture's named embodiments, D may be padded with 0 or NaN, which is cut
                off. Padding of T is not: it would be encoded as motion. Give chunks of differing T as a list.
            num_threads: Threads; None: all cores, where the batch is worth it. Results do not depend on it.
            state: (N, S) the state at each chunk's start, float32 or float64, raw units: where dimensions are relative
                to it, and nowhere else. With one name a chunk: (N, S) padded as the chunks, or a list of (S_i,), whose
                entries for absolute embodiments do not count.
            embodiment: Name of the embodiment, where there are several; or one name a chunk.

        Returns:
            The ids, and per chunk how many coefficients saturated and how many values were clipped.

        Raises:
            ValueError: Not finite, empty, or of a rank, dtype, T or D that the artefact does not allow. Names chunk,
                time step and dimension. No state, or no embodiment, where one is needed.
        """
        if embodiment is not None and not isinstance(embodiment, str):
            return self._encode_mixed(chunks, list(embodiment), state, num_threads)
        one = self._one(embodiment)
        spec = one._spec
        require_state(spec, state)
        if isinstance(self._spec, MixtureSpec) and embodiment is not None:
            chunks = without_padding_of(chunks, embodiment, self._spec)
            state = state_without_padding_of(state, embodiment, self._spec)
        one_dtype = not isinstance(spec, TokenizerSpec)
        block = one_block(chunks, horizon=spec.time_horizon, action_dim=spec.action_dim, one_dtype=one_dtype)
        if spec.relative is not None:
            assert state is not None
            block = spec.relative.subtract_from(block, state)
        return TokenBatch(*one._codec.encode(block.values, block.row_offsets, thread_count(num_threads)))

    def _encode_mixed(
        self, chunks: ChunksLike, names: list[str], state: ArrayLike | None, num_threads: int | None
    ) -> TokenBatch:
        mixture = self._mixture()
        members = groups(names, mixture)
        arrays, states = chunks_of(chunks, names, mixture), states_of(state, names, mixture)

        def encode(name: str, at: NDArray[np.int64]) -> TokenBatch:
            return self.embodiment(name).encode([arrays[i] for i in at], num_threads, state=stacked(states, at))

        batches = [tokens for _, tokens in each_group(members, encode)]
        if not batches:
            raise ValueError("got no chunks")
        order = np.argsort(np.concatenate([group.at for group in members]))
        return TokenBatch.concatenate(batches).take(order)

    @overload
    def decode(
        self,
        tokens: TokensLike,
        time_horizon: int | None = ...,
        action_dim: int | None = ...,
        *,
        mask: NDArray[np.bool_] | None = ...,
        errors: Literal["strict", "repair"] = ...,
        num_threads: int | None = ...,
        state: ArrayLike | None = ...,
        embodiment: str | None = ...,
    ) -> NDArray[np.float64]: ...
    @overload
    def decode(
        self,
        tokens: TokensLike,
        time_horizon: int | None = ...,
        action_dim: int | None = ...,
        *,
        mask: NDArray[np.bool_] | None = ...,
        errors: Literal["strict", "repair"] = ...,
        num_threads: int | None = ...,
        state: ArrayLike | None = ...,
        embodiment: list[str] | tuple[str, ...],
    ) -> list[NDArray[np.float64]]: ...
    def decode(
        self,
        tokens: TokensLike,
        time_horizon: int | None = None,
        action_dim: int | None = None,
        *,
        mask: NDArray[np.bool_] | None = None,
        errors: Literal["strict", "repair"] = "strict",
        num_threads: int | None = None,
        state: ArrayLike | None = None,
        embodiment: str | list[str] | tuple[str, ...] | None = None,
    ) -> NDArray[np.float64] | list[NDArray[np.float64]]:
        """Turns token ids back into chunks.

        Args:
            tokens: A `TokenBatch`, one sequence of ids per chunk, or a padded (N, L) array.
            time_horizon: Steps T of every chunk. Not needed when the artefact records it.
            action_dim: Dimensions D. Not needed when the artefact records it.
            mask: (N, L), true on the ids of a padded array that count.
            errors: "strict" raises on ids that do not describe a chunk. "repair" drops unknown ids, fills a short
                sequence with coefficient 0, cuts a long one, and warns.
            num_threads: Threads; None: all cores, where the batch is worth it.
            state: As for `encode`: relative dimensions are absolute again in what is returned. The ids do not know
                their state: another than at `encode` gives actions that are off by the difference, unnoticed.
            embodiment: Name of the embodiment, where there are several; or one name a chunk, for a list of chunks.

        Returns:
            (N, T, D) float64, in raw units when the artefact has a normaliser. With one name a chunk: N arrays
            (T_i, D_i).

        Raises:
            DecodeError: With ``errors="strict"``.
            ValueError: T or D is missing, or contradicts the artefact. No state, or no embodiment, where one is needed.
        """
        check_errors(errors)
        batch = TokenBatch.coerce(tokens, mask)
        actions: NDArray[np.float64] | list[NDArray[np.float64]]
        actions, status = self._decode(batch, time_horizon, action_dim, num_threads, state, embodiment)
        if status.any_malformed:
            self._handle_malformed(batch, status, errors)
        return actions

    @overload
    def decode_with_status(
        self,
        tokens: TokensLike,
        time_horizon: int | None = ...,
        action_dim: int | None = ...,
        *,
        mask: NDArray[np.bool_] | None = ...,
        num_threads: int | None = ...,
        state: ArrayLike | None = ...,
        embodiment: str | None = ...,
    ) -> tuple[NDArray[np.float64], DecodeStatus]: ...
    @overload
    def decode_with_status(
        self,
        tokens: TokensLike,
        time_horizon: int | None = ...,
        action_dim: int | None = ...,
        *,
        mask: NDArray[np.bool_] | None = ...,
        num_threads: int | None = ...,
        state: ArrayLike | None = ...,
        embodiment: list[str] | tuple[str, ...],
    ) -> tuple[list[NDArray[np.float64]], DecodeStatus]: ...
    def decode_with_status(
        self,
        tokens: TokensLike,
        time_horizon: int | None = None,
        action_dim: int | None = None,
        *,
        mask: NDArray[np.bool_] | None = None,
        num_threads: int | None = None,
        state: ArrayLike | None = None,
        embodiment: str | list[str] | tuple[str, ...] | None = None,
    ) -> tuple[NDArray[np.float64] | list[NDArray[np.float64]], DecodeStatus]:
        """Decodes whatever ids there are, and says what was done to each chunk. Arguments as for `decode`.

        Total: every sequence of ids has a finite result, whose coefficients lie in the fitted range.

        Returns:
            (N, T, D) float64, or a list as `decode` returns it, and the status of the N chunks.
        """
        batch = TokenBatch.coerce(tokens, mask)
        return self._decode(batch, time_horizon, action_dim, num_threads, state, embodiment)

    def symbols(self, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int32]:
        """Symbols that one sequence of ids stands for: (n,) int32, in the order of the artefact.

        Symbol s is coefficient ``spec.levels[s]``, or `spec.end_symbol`. Of published tokenizers, -1 is what
        the ids hold in part only.

        Raises:
            ValueError: An id outside the vocabulary.
        """
        array = self._known(TokenBatch.from_lists([ids]).ids, "strict")
        return self._codec.expand(array).astype(np.int32)

    def _values(self, symbols: NDArray[np.int32]) -> NDArray[np.int32]:
        """Coefficients of symbols."""
        if isinstance(self._spec, TokenizerSpec):
            return self._spec.levels[symbols]
        return symbols + self._spec.min_coefficient

    def _known(self, ids: NDArray[np.integer], errors: Literal["strict", "repair"]) -> NDArray[np.int32]:
        known = (ids >= 0) & (ids < self.vocab_size)
        if errors == "strict" and not known.all():
            raise ValueError(f"token id {ids[~known][0]} lies outside the vocabulary 0..{self.vocab_size - 1}")
        return ids[known].astype(np.int32, copy=False)

    def coefficients(
        self,
        ids: Sequence[int] | NDArray[np.integer],
        time_horizon: int | None = None,
        action_dim: int | None = None,
        *,
        errors: Literal["strict", "repair"] = "strict",
    ) -> NDArray[np.int32]:
        """Quantized coefficients that one sequence of ids stands for: (n,) int32, in frequency-first order.

        Where the artefact has that order and no ends of blocks, the ids may stand for any number n of them. Otherwise
        they are taken for one chunk, of n = T * D.

        Args:
            ids: (m,) token ids.
            time_horizon: Steps T of the chunk, where it matters. Not needed when the artefact records it.
            action_dim: Dimensions D, likewise.
            errors: "repair" drops unknown ids, takes 0 for each character of which the ids hold a part only (in
                published tokenizers), cuts the others of such a sequence to the fitted range, and warns.

        Raises:
            ValueError: With ``errors="strict"``, an id outside the vocabulary, part of a character, or, where T and D
                matter, more or fewer coefficients than a chunk has. T or D is missing where it matters.
        """
        check_errors(errors)
        array = TokenBatch.from_lists([ids]).ids
        known = self._known(array, errors)
        symbols = self._codec.expand(known).astype(np.int32)
        spec = self.one_spec
        if isinstance(spec, TokenizerSpec) and not spec.has_plain_layout:
            horizon = self._shape("time_horizon", time_horizon, spec.time_horizon)
            placed = place(symbols, spec, horizon, self._shape("action_dim", action_dim, spec.action_dim))
            values, broken = placed.coefficients.reshape(-1), np.zeros(placed.coefficients.size, np.bool_)
            misplaced = f"{placed.missing} coefficients missing, {placed.extra} symbols too many"
            whole = placed.missing == placed.extra == 0
        else:
            values, broken, whole = self._values(symbols), symbols < 0, True
        if len(known) == len(array) and whole and not broken.any():
            return values
        if errors == "strict":
            raise ValueError(
                f"the ids hold {int(broken.sum())} characters in part only"
                if whole
                else f"the ids are no chunk: {misplaced}"
            )
        values[broken] = 0
        repaired = values.clip(*self.spec.coefficient_range)
        warnings.warn(
            f"repaired {len(array)} ids: {len(array) - len(known)} unknown ids dropped, {broken.sum()} broken "
            f"characters replaced by coefficient 0, {(repaired != values).sum()} coefficients clamped"
            + ("" if whole else f", {misplaced}"),
            DecodeRepairWarning,
            stacklevel=2,
        )
        return repaired

    def decode_ragged(
        self,
        tokens: TokensLike,
        time_horizons: Sequence[int],
        action_dim: int | None = None,
        *,
        num_threads: int | None = None,
        state: ArrayLike | None = None,
        embodiment: str | Sequence[str] | None = None,
    ) -> list[NDArray[np.float64]]:
        """Decodes chunks of differing horizon, strictly.

        Args:
            tokens: As for `decode`.
            time_horizons: N horizons T_i.
            action_dim: As for `decode`.
            num_threads: As for `decode`.
            state: As for `decode`.
            embodiment: Name of the embodiment, where there are several; or one name a chunk.

        Returns:
            N arrays (T_i, D) float64.

        Raises:
            DecodeError: Ids that do not describe a chunk of that horizon.
            ValueError: As for `decode`.
        """
        batch = TokenBatch.coerce(tokens)
        if len(time_horizons) != len(batch):
            raise ValueError(f"got {len(time_horizons)} horizons for {len(batch)} chunks")
        if embodiment is not None and not isinstance(embodiment, str):
            return self._decode_ragged_mixed(batch, time_horizons, action_dim, num_threads, state, list(embodiment))
        one = self._one(embodiment)
        horizons = np.array([one._shape("time_horizon", t, one.spec.time_horizon) for t in time_horizons], np.int64)
        dims = one._shape("action_dim", action_dim, one.spec.action_dim)
        require_state(one.spec, state)
        if len(batch) == 0:
            return []
        rows, status = one._decode_rows(batch, horizons, dims, num_threads, state)
        if status.any_malformed:
            one._handle_malformed(batch, status, "strict")
        return np.split(rows, np.cumsum(horizons)[:-1])

    def _decode_ragged_mixed(
        self,
        batch: TokenBatch,
        time_horizons: Sequence[int],
        action_dim: int | None,
        num_threads: int | None,
        state: ArrayLike | None,
        names: list[str],
    ) -> list[NDArray[np.float64]]:
        members, states = self._groups_of(batch, names, state)

        def decode(name: str, at: NDArray[np.int64]) -> list[NDArray[np.float64]]:
            horizons = [time_horizons[i] for i in at]
            rows = stacked(states, at)
            return self.decode_ragged(
                batch.take(at), horizons, action_dim, num_threads=num_threads, state=rows, embodiment=name
            )

        return in_order(each_group(members, decode), len(batch))

    def _decode(
        self,
        batch: TokenBatch,
        time_horizon: int | None,
        action_dim: int | None,
        num_threads: int | None,
        state: ArrayLike | None,
        embodiment: str | Sequence[str] | None,
    ) -> tuple[Any, DecodeStatus]:
        if embodiment is not None and not isinstance(embodiment, str):
            return self._decode_mixed(batch, time_horizon, action_dim, num_threads, state, list(embodiment))
        one = self._one(embodiment)
        horizon = one._shape("time_horizon", time_horizon, one.spec.time_horizon)
        dims = one._shape("action_dim", action_dim, one.spec.action_dim)
        require_state(one.spec, state)
        if isinstance(self._spec, MixtureSpec) and embodiment is not None:
            state = state_without_padding_of(state, embodiment, self._spec)
        rows, status = one._decode_rows(batch, np.array([horizon], np.int64), dims, num_threads, state)
        return rows.reshape(len(batch), horizon, dims), status

    def _decode_mixed(
        self,
        batch: TokenBatch,
        time_horizon: int | None,
        action_dim: int | None,
        num_threads: int | None,
        state: ArrayLike | None,
        names: list[str],
    ) -> tuple[list[NDArray[np.float64]], DecodeStatus]:
        members, states = self._groups_of(batch, names, state)

        def decode(name: str, at: NDArray[np.int64]) -> tuple[Any, DecodeStatus]:
            return self._decode(batch.take(at), time_horizon, action_dim, num_threads, stacked(states, at), name)

        parts = []
        counts = np.zeros((len(fields(DecodeStatus)), len(batch)), np.int64)
        for group, (actions, status) in each_group(members, decode):
            counts[:, group.at] = [getattr(status, f.name) for f in fields(DecodeStatus)]
            parts.append((group, actions))
        return in_order(parts, len(batch)), DecodeStatus(*counts)

    def _groups_of(
        self, batch: TokenBatch, names: list[str], state: ArrayLike | None
    ) -> tuple[list[Group], list[NDArray[np.floating] | None]]:
        """The sequences of ids of each embodiment, and their states."""
        if len(names) != len(batch):
            raise ValueError(f"got {len(batch)} sequences of ids, but {len(names)} names of embodiments")
        mixture = self._mixture()
        return groups(names, mixture), states_of(state, names, mixture)

    def _decode_rows(
        self,
        batch: TokenBatch,
        horizons: NDArray[np.int64],
        dims: int,
        num_threads: int | None,
        state: ArrayLike | None,
    ) -> tuple[NDArray[np.float64], DecodeStatus]:
        ids = batch.ids
        if ids.dtype != np.int32:  # ids that do not fit: unknown, whatever they are
            ids = ids.clip(-1, np.iinfo(np.int32).max).astype(np.int32)
        rows, counts = self._codec.decode(ids, batch.offsets, horizons, dims, thread_count(num_threads))
        if self._spec.relative is not None and len(batch):
            assert state is not None
            origin = self._spec.relative.origin(state, dims, len(batch))
            rows = rows + np.repeat(origin, np.broadcast_to(horizons, len(batch)), axis=0)
        return rows, DecodeStatus(*counts.T)

    def _shape(self, name: str, given: int | None, recorded: int | None) -> int:
        if given is None and recorded is None:
            raise ValueError(f"this tokenizer takes any {name}: decode needs {name}=...")
        if given is not None and recorded is not None and given != recorded:
            raise ValueError(f"{name}={given}, but this tokenizer was fitted for {recorded}")
        value = recorded if given is None else given
        assert value is not None
        highest = MAX_HORIZON if name == "time_horizon" else MAX_ACTION_DIM
        if integer(name, value, 1, 2**62, "positive") > highest:
            raise ValueError(f"{name} must be at most {highest}, got {value}")
        return int(value)

    def _handle_malformed(self, batch: TokenBatch, status: DecodeStatus, errors: Literal["strict", "repair"]) -> None:
        bad = np.flatnonzero(~status.ok)
        i = int(bad[0])
        if errors == "repair":
            warnings.warn(
                f"repaired {len(bad)} of {len(batch)} chunks; {status.describe(i)}",
                DecodeRepairWarning,
                stacklevel=3,
            )
            return
        if status.unknown[i]:
            unknown = (batch[i] < 0) | (batch[i] >= self.vocab_size)
            raise DecodeError(i, "unknown token id", int(batch[i][unknown][0]), self.vocab_size)
        if status.broken[i]:
            raise DecodeError(i, "broken characters", int(status.broken[i]), 0)
        expected = int(status.expected[i])
        if status.missing[i]:
            raise DecodeError(i, "too few symbols", expected - int(status.missing[i]), expected)
        raise DecodeError(i, "too many symbols", expected + int(status.extra[i]), expected)

    # ---- Python's own ----------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FastTokenizer) and self.fingerprint() == other.fingerprint()

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def __reduce__(self) -> tuple[type[FastTokenizer], tuple[Spec, FitSummary | None]]:
        return type(self), (self.spec, self.fit_summary)

    def __repr__(self) -> str:
        s = self.spec
        vocabulary = f"vocab_size={s.vocab_size}, coefficients={s.min_coefficient}..{s.max_coefficient}"
        if isinstance(s, MixtureSpec):
            return f"FastTokenizer({vocabulary}, embodiments={list(s.names)})"
        normalizer = None if s.normalizer is None else s.normalizer.kind
        plain = {"order": "frequency-first", "end_of_block": None, "parsing": "bpe", "dead_zone": 0.5}
        coding = [f"{name}={getattr(s, name)!r}, " for name, value in plain.items() if getattr(s, name, value) != value]
        return (
            f"FastTokenizer(vocab_size={s.vocab_size}, scale={s.scale}, "
            f"coefficients={s.min_coefficient}..{s.max_coefficient}, {''.join(coding)}time_horizon={s.time_horizon}, "
            f"action_dim={s.action_dim}, normalizer={normalizer})"
        )


def _fit_rule(
    chunks: ChunksLike | ChunksOnWorkers, relative: RelativeLike | None, state: ArrayLike | None
) -> Relative | None:
    """The rule of a fit, which comes with a state, as the state comes with it; or with chunks that have read theirs."""
    if isinstance(chunks, ChunksOnWorkers):
        if relative is not None or state is not None:
            raise ValueError("these chunks are read with their states: give the rule of relative actions to their Cut")
        return chunks.relative
    if relative is None:
        if state is not None:
            raise ValueError("state goes with relative=...: which dimensions are relative to it?")
        return None
    if state is None:
        raise ValueError("relative actions need the state at each chunk's start: give state=..., shape (N, S)")
    return to_rule(relative, state)


def _fit_chunks(
    chunks: ChunksLike | ChunksOnWorkers, options: FitOptions, state: ArrayLike | None
) -> ChunksLike | ChunksOnWorkers:
    """The chunks as they are fitted on."""
    if isinstance(chunks, ChunksOnWorkers):
        if options.engine != "ray":
            raise ValueError("these chunks are read by the workers of a cluster: give engine='ray'")
        return chunks
    if options.relative is None:
        return chunks
    assert state is not None
    return relative_chunks(chunks, options.relative, state)
