"""Exact tokens that travel beside text: what the model sampled, with natural-log probabilities."""

import msgspec


class TopLogprob(msgspec.Struct, frozen=True, omit_defaults=True):
    """One alternative at a position. `bytes` are the token's UTF-8 bytes, which `token` cannot always show."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    id: int | None = None


class TokenLogprob(msgspec.Struct, frozen=True, omit_defaults=True):
    """One sampled token with its alternatives, most likely first."""

    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    id: int | None = None
    top: tuple[TopLogprob, ...] = ()
