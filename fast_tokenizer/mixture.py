"""Several embodiments under one vocabulary: the spec."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NoReturn

import numpy as np

from fast_tokenizer._core import Codec
from fast_tokenizer.spec import OF_EMBODIMENT, TokenizerSpec

#: Attributes of a spec that are those of the vocabulary.
SHARED = (
    *(f.name for f in fields(TokenizerSpec) if f.name not in OF_EMBODIMENT),
    "coefficient_range",
    "zero_symbol",
    "end_symbol",
    "alphabet_size",
    "vocab_size",
)


@dataclass(frozen=True, slots=True, eq=False)
class MixtureSpec:
    """The contents of an artefact of several embodiments: they share the vocabulary, and all else is their own.

    Attributes:
        members: One spec an embodiment, each with its name. Range, merges and coding options are the same in all.

    Example:
        >>> from dataclasses import replace
        >>> arm = TokenizerSpec(10.0, -9, 9, np.empty((0, 2)), action_dim=7, embodiment="arm")
        >>> mixture = MixtureSpec((arm, replace(arm, scale=5.0, action_dim=14, embodiment="two_arms")))
        >>> mixture.names, mixture["two_arms"].action_dim
        (('arm', 'two_arms'), 14)
    """

    members: tuple[TokenizerSpec, ...]

    def __reduce__(self) -> tuple[type[MixtureSpec], tuple[object, ...]]:
        return type(self), (self.members,)

    def __post_init__(self) -> None:
        members = tuple(self.members)
        object.__setattr__(self, "members", members)
        if not members:
            raise ValueError("a mixture needs at least one embodiment")
        for member in members:
            if member.embodiment is None:
                raise ValueError("every embodiment of a mixture needs a name")
        if len(set(self.names)) < len(members):
            raise ValueError(f"two embodiments have one name: {list(self.names)}")
        for name in SHARED:
            first = getattr(members[0], name)
            for member in members[1:]:
                if not np.array_equal(first, getattr(member, name)):
                    raise ValueError(
                        f"embodiments share the vocabulary, but {name} of {member.embodiment!r} is not that of "
                        f"{members[0].embodiment!r}"
                    )

    @property
    def names(self) -> tuple[str, ...]:
        """The embodiments' names, in order."""
        return tuple(str(member.embodiment) for member in self.members)

    def __getitem__(self, name: str) -> TokenizerSpec:
        for member in self.members:
            if member.embodiment == name:
                return member
        raise ValueError(f"no embodiment is called {name!r}; there are {', '.join(map(repr, self.names))}")

    def require_one(self) -> NoReturn:
        """Raises the ValueError of a call that does not say which embodiment it is about."""
        raise ValueError(
            f"this tokenizer has several embodiments: {', '.join(map(repr, self.names))}; "
            f'say which: embodiment="{self.names[0]}", or tokenizer.embodiment("{self.names[0]}")'
        )

    def __getattr__(self, name: str) -> Any:
        """Of what the embodiments share, that of the first; what only an embodiment has must not be asked of all."""
        if name in (*OF_EMBODIMENT, "scales"):
            self.require_one()
        if name in SHARED:
            return getattr(self.members[0], name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def codec(self) -> Codec:
        """The core's codec of the first: the vocabulary is that of all."""
        return self.members[0].codec()

    def to_json(self) -> dict[str, Any]:
        """The artefact's fields; the README states the format."""
        written = [member.to_json() for member in self.members]
        return {
            **written[0],
            "embodiments": [e for w in written for e in w["embodiments"]],
            "merges": written[0]["merges"],
        }
