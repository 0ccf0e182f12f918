"""Reads published artefacts: `processor_config.json` and `tokenizer.json` in a folder. No remote code is run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_tokenizer import format as artefact
from fast_tokenizer.compat.published import PublishedSpec
from fast_tokenizer.errors import ArtefactError

PROCESSOR_FILE = "processor_config.json"
TOKENIZER_FILE = "tokenizer.json"
#: Where `transformers` 5 puts and looks for the tokenizer's files.
TOKENIZER_FOLDER = "bpe_tokenizer"
_WANTED = [artefact.FILE_NAME, PROCESSOR_FILE, TOKENIZER_FILE, f"{TOKENIZER_FOLDER}/{TOKENIZER_FILE}"]
#: Larger files are no vocabulary of at most 16,384 tokens.
MAX_BYTES = 64 * 2**20

_Json = dict[str, Any]


def download(repository: str, **options: Any) -> Path:
    """The folder, in the hub's cache, of a repository's artefact. Only what is read is fetched.

    Args:
        repository: Its id.
        options: As `FastTokenizer.from_pretrained` has them.

    Raises:
        FileNotFoundError: There is no such repository, or it is not in the cache and may not be fetched.
        ImportError: `huggingface_hub` is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise ImportError(
            f"{repository!r} is no folder, and a hub id needs huggingface_hub: pip install 'fast-tokenizer[hub]'"
        ) from None
    try:
        folder = snapshot_download(repository, allow_patterns=_WANTED, **options)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(f"{repository!r} is no folder, and the hub does not give it: {reason}") from error
    return Path(folder)


def load(folder: str | os.PathLike[str]) -> PublishedSpec:
    """Reads the artefact in a folder.

    Raises:
        FileNotFoundError: A file is missing.
        ArtefactError: A file is damaged, or has something that FAST's published tokenizers do not; the message says
            what.
    """
    root = Path(folder)
    config_file = root / PROCESSOR_FILE
    if not config_file.is_file():
        raise FileNotFoundError(f"{root} holds neither {artefact.FILE_NAME} nor {PROCESSOR_FILE}")
    config = _read(config_file)
    tokenizer_file, tokenizer = _tokenizer(root)
    tokens, merges = _vocabulary(tokenizer, str(tokenizer_file))
    where = str(config_file)
    scale = config.get("scale")
    if not isinstance(scale, int | float) or isinstance(scale, bool):
        raise ArtefactError(f"{where}: 'scale' must be a number, got {scale!r}")
    try:
        return PublishedSpec(
            scale=scale,
            min_token=_integer(config.get("min_token"), "min_token", where),
            tokens=tokens,
            merges=merges,
            time_horizon=_optional_integer(config.get("time_horizon"), "time_horizon", where),
            action_dim=_optional_integer(config.get("action_dim"), "action_dim", where),
        )
    except ArtefactError:
        raise
    except (ValueError, OverflowError) as error:
        raise ArtefactError(f"{where}: {error}") from None


def _read(file: Path) -> _Json:
    with file.open("rb") as handle:
        data = handle.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ArtefactError(f"{file}: larger than {MAX_BYTES} bytes, which no FAST artefact is")
    try:
        values = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{file}: not valid JSON, truncated perhaps: {error}") from None
    if not isinstance(values, dict):
        raise ArtefactError(f"{file}: expected a JSON object, got {type(values).__name__}")
    return values


def _tokenizer(root: Path) -> tuple[Path, _Json]:
    """`tokenizer.json` at the root or in `bpe_tokenizer/`; where both are there, they must agree."""
    files = [f for f in (root / TOKENIZER_FILE, root / TOKENIZER_FOLDER / TOKENIZER_FILE) if f.is_file()]
    if not files:
        raise FileNotFoundError(f"{root} has neither {TOKENIZER_FILE} nor {TOKENIZER_FOLDER}/{TOKENIZER_FILE}")
    read = [_read(f) for f in files]
    if any(r.get("model") != read[0].get("model") for r in read[1:]):
        raise ArtefactError(f"{files[0]} and {files[1]} hold different vocabularies; remove the one that is wrong")
    return files[0], read[0]


def _vocabulary(tokenizer: _Json, where: str) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Tokens by id, and merges as ids."""
    _check_pipeline(tokenizer, where)
    model = tokenizer["model"]
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not all(type(i) is int for i in vocab.values()):
        raise ArtefactError(f"{where}: 'vocab' must map tokens to ids")
    if "" in vocab:
        raise ArtefactError(f"{where}: the empty token, id {vocab['']}, stands for nothing")
    tokens = sorted(vocab, key=vocab.__getitem__)
    if [vocab[t] for t in tokens] != list(range(len(tokens))):
        raise ArtefactError(f"{where}: the {len(tokens)} ids must be 0..{len(tokens) - 1}, each once")
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise ArtefactError(f"{where}: 'merges' must be a list")
    made: dict[str, int] = {}
    joined = []
    for i, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(p, str) for p in parts):
            raise ArtefactError(f"{where}: merge {i} must be 'a b' or ['a', 'b'], got {merge!r}")
        together = parts[0] + parts[1]
        for token in (*parts, together):
            if token not in vocab:
                raise ArtefactError(f"{where}: merge {i}: {token!r} is not in the vocabulary")
        if together in made:
            raise ArtefactError(
                f"{where}: merges {made[together]} and {i} both make {together!r}, which no training produces"
            )
        made[together] = i
        joined.append([vocab[p] for p in parts])
    return tuple(tokens), np.array(joined, np.int32).reshape(-1, 2)


def _check_pipeline(tokenizer: _Json, where: str) -> None:
    """Everything around the merges must be what FAST uses, or ids would differ without a word."""
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise ArtefactError(f"{where}: 'model' must be of type BPE")
    pre = tokenizer.get("pre_tokenizer")
    expected = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    if not isinstance(pre, dict) or any(pre.get(k, True) != v for k, v in expected.items()):
        raise ArtefactError(f"{where}: 'pre_tokenizer' must be {expected}, as FAST's, got {pre!r}")
    decoder = tokenizer.get("decoder")
    if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
        raise ArtefactError(f"{where}: 'decoder' must be ByteLevel, as FAST's, got {decoder!r}")
    post = tokenizer.get("post_processor")
    if post is not None and (not isinstance(post, dict) or post.get("type") != "ByteLevel"):
        raise ArtefactError(f"{where}: 'post_processor' must be absent or ByteLevel, as FAST's: {post!r} may add ids")
    unused: _Json = {name: tokenizer.get(name) for name in ("normalizer", "truncation", "padding", "added_tokens")}
    names = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    unused |= {name: model.get(name) for name in (*names, "ignore_merges")}
    for name, value in unused.items():
        if value:
            raise ArtefactError(f"{where}: {name!r} must be unset, as in FAST's tokenizers, got {value!r}")


def _integer(value: object, name: str, where: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**31:
        raise ArtefactError(f"{where}: {name!r} must be an integer of 32 bits, got {value!r}")
    return value


def _optional_integer(value: object, name: str, where: str) -> int | None:
    return None if value is None else _integer(value, name, where)
