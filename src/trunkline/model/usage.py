"""Token usage. Input tokens are the sum of fresh, cache-write and cache-read tokens; `cached_tokens` is the cache-read part
(decision 37). A detail that the backend did not report is None, which is not the same as 0: some clients rely on the
difference (decision 9), and a sum must not invent it."""

from collections.abc import Mapping

import msgspec


class _Counts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The two that everybody has, and which are taken in this order without their names."""

    input_tokens: int = 0
    output_tokens: int = 0


class Usage(_Counts, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens of one turn. `details` holds every other count the wire names, under `input.` or `output.` and its own name."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    details: Mapping[str, int] = {}

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens
