"""Writes a tokenizer as a folder that `transformers` and `tokenizers` load, as the published FAST artefacts are.

A native tokenizer becomes a BPE over plain characters, symbol s being the character U+s, without pre-tokenizer; a
published one gets its byte-level pre-tokenizer and decoder back.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fast_tokenizer import format as artefact
from fast_tokenizer.compat.artefact import PROCESSOR_FILE, TOKENIZER_FILE, TOKENIZER_FOLDER
from fast_tokenizer.compat.published import PublishedSpec
from fast_tokenizer.mixture import MixtureSpec
from fast_tokenizer.spec import TokenizerSpec
from fast_tokenizer.tokenizer import FastTokenizer

STUB = "processing_fast_tokenizer.py"

_Json = dict[str, Any]


def export_hf(tokenizer: FastTokenizer, directory: str | os.PathLike[str]) -> None:
    """Writes a folder in the published format, all of it or nothing.

    `AutoProcessor` loads it, with the package `fast-tokenizer` installed, as a `FastProcessor`: with
    ``trust_remote_code=True``, or without after `register_auto_processor`. `PreTrainedTokenizerFast` and `tokenizers`
    load its BPE, with the same ids. Text that the library itself did not write has no saturation: characters beyond the
    alphabet are dropped by `tokenizers`.

    Args:
        tokenizer: Native or published.
        directory: Made where it is missing. In one that exists only these files are replaced, and a
            ``fast_tokenizer.json`` beside a published export removed, because it would be read instead.

    Raises:
        ValueError: The format cannot express the tokenizer: a normalizer, scales that differ between dimensions, coding
            options (order, ends of blocks, optimal parsing, dead zone), relative actions, or several embodiments.
        NotADirectoryError: `directory` is a file.

    Example:
        >>> from fast_tokenizer import FastTokenizer
        >>> chunks = np.cumsum(np.random.default_rng(0).normal(0, 0.1, (100, 20, 3)), axis=1)
        >>> export_hf(FastTokenizer.fit(chunks, 256, end_of_block=None, levels_beyond=0), "my_robot_hf")
        >>> sorted(p.name for p in Path("my_robot_hf").iterdir())[:3]
        ['bpe_tokenizer', 'fast_tokenizer.json', 'processing_fast_tokenizer.py']
    """
    _write_folder(_files(tokenizer), Path(directory))


def push_to_hub(
    tokenizer: FastTokenizer,
    repo_id: str,
    *,
    private: bool | None = None,
    commit_message: str | None = None,
    token: str | bool | None = None,
) -> str:
    """Uploads what `export_hf` writes to a model repository, which is made where it is missing.

    Args:
        tokenizer: Native or published.
        repo_id: ``"owner/name"``, or a name of the token's owner.
        private: Of a repository that is made; None: as the owner's default says.
        commit_message: None: "Upload FAST tokenizer".
        token: Access token; None: the one that was logged in with.

    Returns:
        Address of the commit.

    Raises:
        ValueError: As `export_hf`, before anything is uploaded.
        ImportError: The package `huggingface_hub` is missing.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        export_hf(tokenizer, folder)
        api = HfApi(token=token)
        made = api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            commit_message=commit_message or "Upload FAST tokenizer",
            delete_patterns=artefact.FILE_NAME,  # where it is not uploaded, as below
        )
    return commit.commit_url


def expressible(tokenizer: FastTokenizer) -> TokenizerSpec | PublishedSpec:
    """The spec, where the published format and its callers have a place for it: one embodiment, absolute actions.

    Raises:
        ValueError: Several embodiments, or relative dimensions; names them.
    """
    spec = tokenizer.spec
    if isinstance(spec, MixtureSpec):
        raise ValueError(
            f"the published format has no embodiments, this tokenizer has {', '.join(map(repr, spec.names))}: take "
            f'tokenizer.embodiment("{spec.names[0]}")'
        )
    if spec.relative is not None:
        raise ValueError(
            f"the published format has no relative actions, but dimensions {list(spec.relative.dimensions)} of this "
            "tokenizer are relative to the state; take tokenizer.without_relative(), and go by the state yourself"
        )
    return spec


def single_scale(spec: TokenizerSpec | PublishedSpec) -> float:
    """The scale, where all dimensions have the same."""
    scales = {spec.scale} if isinstance(spec.scale, float) else set(spec.scale)
    if len(scales) > 1:
        raise ValueError(f"the published format has one scale for all dimensions, this tokenizer {spec.scale}")
    return float(scales.pop())


def _files(tokenizer: FastTokenizer) -> dict[str, bytes]:
    """Contents by path in the folder. Whatever cannot be expressed is refused here."""
    spec = expressible(tokenizer)
    scale = single_scale(spec)
    if spec.normalizer is not None:
        raise ValueError(
            "the published format has no normalizer: whoever loads the folder would feed it actions that are "
            "normalised already. Fit on normalised chunks instead, or use save()"
        )
    if isinstance(spec, TokenizerSpec):
        _require_plain_coding(spec)
    model = _plain_text_bpe(spec) if isinstance(spec, TokenizerSpec) else _byte_level_bpe(spec)
    tokenizer_files = {
        TOKENIZER_FILE: _json_bytes(model),
        "tokenizer_config.json": _json_bytes(
            {
                "added_tokens_decoder": {},
                "clean_up_tokenization_spaces": False,  # it would delete the character of a coefficient
                "model_max_length": int(1e30),  # what transformers writes for "no limit"
                "tokenizer_class": "PreTrainedTokenizerFast",
            }
        ),
        "special_tokens_map.json": _json_bytes({}),
    }
    config = {
        "action_dim": spec.action_dim,
        "auto_map": {"AutoProcessor": f"{Path(STUB).stem}.FastProcessor"},
        "min_token": spec.min_coefficient,
        "processor_class": "FastProcessor",
        "scale": int(scale) if scale.is_integer() else scale,
        "time_horizon": spec.time_horizon,
        "vocab_size": spec.vocab_size,
    }
    files = {STUB: resources.files("fast_tokenizer.compat").joinpath(STUB).read_bytes()}
    if isinstance(spec, TokenizerSpec):
        files[artefact.FILE_NAME] = artefact.to_bytes(spec)
    # transformers 5 looks for the tokenizer of a processor in a folder of the attribute's name, 4.x at the root.
    files |= {f"{TOKENIZER_FOLDER}/{name}": content for name, content in tokenizer_files.items()}
    return files | tokenizer_files | {PROCESSOR_FILE: _json_bytes(config)}


_PLAIN_CODING = {
    "order": "frequency-first",
    "end_of_block": None,
    "parsing": "bpe",
    "dead_zone": 0.5,
    "levels_beyond": 0,
}


def _require_plain_coding(spec: TokenizerSpec) -> None:
    for name, plain in (
        ("order", "frequency-first"),
        ("end_of_block", None),
        ("parsing", "bpe"),
        ("dead_zone", 0.5),
        ("levels_beyond", 0),
    ):
        value = getattr(spec, name)
        if value != plain:
            raise ValueError(
                f"the published format knows only {name}={plain!r}, this tokenizer has {value!r}: whoever loads the "
                f"folder would take its ids for others. Fit with {name}={plain!r}, or use save()"
            )


def _plain_text_bpe(spec: TokenizerSpec) -> _Json:
    """`tokenizer.json` of a native tokenizer. The limits on a vocabulary keep symbols far below the surrogates."""
    texts = [chr(symbol) for symbol in range(spec.alphabet_size)]
    merges = []
    for left, right in spec.merges.tolist():
        merges.append([texts[left], texts[right]])
        texts.append(texts[left] + texts[right])
    return _tokenizer_json(texts, merges, pre_tokenizer=None, post_processor=None, decoder={"type": "Fuse"})


def _byte_level_bpe(spec: PublishedSpec) -> _Json:
    """`tokenizer.json` of a published one, as it was trained."""

    def byte_level(add_prefix_space: bool, trim_offsets: bool) -> _Json:
        options = {"add_prefix_space": add_prefix_space, "trim_offsets": trim_offsets, "use_regex": True}
        return {"type": "ByteLevel", **options}

    return _tokenizer_json(
        spec.tokens,
        [[spec.tokens[left], spec.tokens[right]] for left, right in spec.merges.tolist()],
        pre_tokenizer=byte_level(add_prefix_space=False, trim_offsets=True),
        post_processor=byte_level(add_prefix_space=True, trim_offsets=False),
        decoder=byte_level(add_prefix_space=True, trim_offsets=True),
    )


def _tokenizer_json(texts: Sequence[str], merges: list[list[str]], **parts: _Json | None) -> _Json:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        **parts,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(texts)},
            "merges": merges,
        },
    }


def _json_bytes(value: _Json) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _write_folder(files: dict[str, bytes], target: Path) -> None:
    """Writes beside the target first, so that a failure leaves it as it was."""
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target} is no folder")
    for name in files:
        if (target / name).is_dir():
            raise IsADirectoryError(f"{target / name} is a folder, and would be a file")
    exists = target.exists()
    (target if exists else target.parent).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target if exists else target.parent, prefix=".export-") as beside:
        staged = Path(beside) / "export"
        for name, content in files.items():
            file = staged / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        if exists:
            # A native file of an earlier export would be read instead of a published one.
            _replace_files(staged, target, Path(beside) / "old", sorted({*files, artefact.FILE_NAME}))
        else:
            staged.rename(target)


def _replace_files(staged: Path, target: Path, old: Path, names: Sequence[str]) -> None:
    """Moves files from `staged`, those in their way to `old`; puts everything back where a move fails."""
    for folder in (target, old):
        (folder / TOKENIZER_FOLDER).mkdir(parents=True, exist_ok=True)
    moved: list[tuple[Path, Path]] = []  # to where, from where
    try:
        for name in names:
            for source, goal in ((target / name, old / name), (staged / name, target / name)):
                if source.exists():
                    source.rename(goal)
                    moved.append((goal, source))
    except BaseException:
        for goal, source in reversed(moved):
            goal.rename(source)
        raise
