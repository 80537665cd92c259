"""Metrics for Prometheus: families of samples as values, and the text a server scrapes (exposition format 0.0.4).

Whoever has numbers offers a function that gives families when it is asked; nothing is counted twice to be shown here, and nothing
is done between two scrapes. The format is written by hand because it is these forty lines: for them the official client library
would bring registries, an HTTP server and 20 ms to every start. The tests read what is written with its parser.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_QUOTE, _ESCAPED_QUOTE = '"', '\\"'
Kind = Literal["counter", "gauge", "histogram"]


class Sample(msgspec.Struct, frozen=True):
    """One line. `suffix` follows the family's name and `bound` the labels, as a histogram's parts have them."""

    value: float
    labels: Mapping[str, str] = {}
    suffix: str = ""
    bound: float | None = None


class Family(msgspec.Struct, frozen=True):
    """One metric: its name with unit (and `_total` for a counter), what it tells, and its samples."""

    name: str
    kind: Kind
    text: str
    samples: Sequence[Sample]


Source = Callable[[], Iterable[Family]]
"""Gives families with the values of this moment."""


def counter(name: str, text: str, samples: Iterable[Sample]) -> Family:
    return Family(name, "counter", text, list(samples))


def gauge(name: str, text: str, samples: Iterable[Sample]) -> Family:
    return Family(name, "gauge", text, list(samples))


def histogram(
    labels: Mapping[str, str], bounds: Sequence[float], counts: Sequence[int], total: float
) -> Iterable[Sample]:
    """The samples of one histogram: `counts` of each bucket by itself, one more than there are bounds, and the sum of what was
    measured."""
    below = 0
    for bound, count in zip([*bounds, math.inf], counts, strict=True):
        below += count
        yield Sample(below, labels, "_bucket", bound)
    yield Sample(total, labels, "_sum")
    yield Sample(below, labels, "_count")


def exposition(families: Iterable[Family]) -> bytes:
    """The families as text."""
    lines: list[str] = []
    for family in families:
        lines += (f"# HELP {family.name} {_escaped(family.text)}", f"# TYPE {family.name} {family.kind}")
        labels, written = None, ""
        for sample in family.samples:
            if sample.labels is not labels:  # the parts of a histogram share theirs, and are most of the lines
                labels, written = sample.labels, _labels(sample.labels)
            of = written
            if sample.bound is not None:
                of = f'{{{written[1:-1]}{"," if written else ""}le="{_number(sample.bound)}"}}'
            lines.append(f"{family.name}{sample.suffix}{of} {_number(sample.value)}")
    lines.append("")
    return "\n".join(lines).encode("utf-8", "backslashreplace")


def _labels(labels: Mapping[str, str]) -> str:
    """Empty, or with its braces."""
    pairs = [f'{name}="{_escaped(value).replace(_QUOTE, _ESCAPED_QUOTE)}"' for name, value in labels.items()]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    if type(value) is int:
        return str(value)
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)
