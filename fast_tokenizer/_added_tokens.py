"""One added token per token id in a `transformers` tokenizer, checked before the tokenizer is changed."""

from __future__ import annotations

import copy
from typing import Any


def add_range(tokenizer: Any, size: int, token_format: str, embedding_size: int | None) -> tuple[int, int]:
    """Adds the tokens, or finds them.

    Returns:
        The id of the first token, and the highest id of the tokenizer.

    Raises:
        ValueError: See `VlmVocab.add_to_tokenizer`. The tokenizer is then as it was.
    """
    # By what is used of it; a `tokenizers.Tokenizer` has all but init_kwargs.
    if not all(hasattr(tokenizer, name) for name in ("get_vocab", "add_tokens", "init_kwargs")):
        raise ValueError(f"expected a transformers tokenizer, got {type(tokenizer).__name__}")
    names = [_name(token_format, i) for i in range(size + 1)]
    if names[0] == names[1]:
        raise ValueError(f"token_format must contain {{i}}, got {token_format!r}")
    beyond = names.pop()
    vocab: dict[str, int] = tokenizer.get_vocab()
    if beyond in vocab:
        raise ValueError(f"the tokenizer has {beyond!r}, too: it was made for more than {size} action tokens")
    present = [name for name in names if name in vocab]
    if present and len(present) < size:
        raise ValueError(
            f"the tokenizer has {len(present)} of the {size} action tokens, the first of them {present[0]!r}; "
            "expected all or none"
        )
    if present:
        return _checked(vocab, names, embedding_size)
    # Added tokens cannot be taken away again, and ids with holes are given twice: hence a copy first.
    trial = copy.deepcopy(tokenizer)
    _add(trial, names)
    result = _checked(trial.get_vocab(), names, embedding_size)
    highest = max(vocab.values(), default=-1)
    if result[0] <= highest:
        raise ValueError(
            f"{names[0]!r} would get id {result[0]}, which is not above the tokenizer's highest, {highest}: its ids "
            "have holes, and what looks free there may be in use (image placeholders, reserved ids)"
        )
    _add(tokenizer, names)
    return result


def _name(token_format: str, i: int) -> str:
    if not isinstance(token_format, str):
        raise ValueError(f"token_format must be a text with {{i}}, got {token_format!r}")
    try:
        return token_format.format(i=i)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise ValueError(f"token_format must have {{i}} as its only field, got {token_format!r}") from None


def _add(tokenizer: Any, names: list[str]) -> None:
    from transformers import AddedToken

    # Not normalized: a lower-casing tokenizer must not see another text in them.
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names], special_tokens=True)


def _checked(vocab: dict[str, int], names: list[str], embedding_size: int | None) -> tuple[int, int]:
    """The first id of the tokens and the highest id of all, if the tokens have one rising range of their own."""
    missing = [name for name in names if name not in vocab]
    if missing:
        raise ValueError(f"the tokenizer did not take {missing[0]!r}")
    first = vocab[names[0]]
    for i, name in enumerate(names):
        if vocab[name] != first + i:
            raise ValueError(f"{name!r} has id {vocab[name]}, expected {first + i}: the range is not contiguous")
    own = set(names)
    for name, i in vocab.items():
        if first <= i < first + len(names) and name not in own:
            raise ValueError(f"id {i} belongs to {name!r} and to {names[i - first]!r}: the tokenizer's ids have holes")
    last = max(vocab.values())
    if embedding_size is not None and last >= embedding_size:
        raise ValueError(
            f"the tokenizer has ids up to {last} with the action tokens, the model's embedding {embedding_size} rows; "
            f"resize it to {last + 1}"
        )
    return first, last
