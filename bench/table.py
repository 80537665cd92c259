"""Figures as a markdown table: one row per measure, one column per server, medians with their range, and ratios."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from bench.cases import TARGETS, Target


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured value. `measure` names the row, with its unit; `run` tells repeats apart."""

    measure: str
    unit: str
    target: Target
    value: float
    run: int = 0


REFERENCES: tuple[Target, ...] = ("bare", "smg", "litellm")


def render(figures: Sequence[Figure], *, subject: Target = "trunkline") -> str:
    """The table, rows in the order of the figures. The last columns are subject ÷ each reference, from their medians."""
    rows: dict[tuple[str, str], dict[Target, list[float]]] = {}
    for figure in figures:
        rows.setdefault((figure.measure, figure.unit), {}).setdefault(figure.target, []).append(figure.value)
    columns = [target for target in TARGETS if any(target in row for row in rows.values())]
    references = [reference for reference in REFERENCES if {reference, subject} <= set(columns)]
    titles = ["measure", "unit", *(TARGETS[column] for column in columns)]
    titles += [f"{subject} ÷ {reference}" for reference in references]
    lines = [_line(titles), _line(["---", "---", *("---:" for _ in titles[2:])])]
    for (measure, unit), row in rows.items():
        cells = [measure, unit, *(_cell(row.get(column, ())) for column in columns)]
        cells += [_ratio(row, reference=reference, subject=subject) for reference in references]
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return _number(values[0])
    return f"{_number(statistics.median(values))} ({_number(min(values))}–{_number(max(values))})"


def _ratio(row: Mapping[Target, Sequence[float]], *, reference: Target, subject: Target) -> str:
    if reference not in row or subject not in row:
        return ""
    below = statistics.median(row[reference])
    return f"{statistics.median(row[subject]) / below:.2f}" if below > 0 else ""


def _number(value: float) -> str:
    """Three significant digits, but never fewer than the whole part."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
