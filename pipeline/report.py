"""The page that a pipeline run leaves behind: one HTML file that needs nothing else to be read.

A run is told in a ``RunSummary``, and only through it: the pipeline fills it in, keeps it as JSON beside the
models, and ``write`` turns it into the page, then or at any later time.
"""

import math
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.ticker import MaxNLocator

from twotower.pipeline.run_summary import Curve, MetricRow, MetricTable, RunSummary

LOWER_IS_BETTER = "↓"


def render(summary: RunSummary) -> str:
    """The page as HTML text: no script, nothing fetched, every text escaped."""
    return str(_environment().get_template("report.html.j2").render(run=summary))


def write(summary: RunSummary, path: Path) -> None:
    """Write the page to ``path`` (its folder is made if need be): the whole new page, or the old one untouched."""
    # Product titles can hold lone surrogates, which UTF-8 has no bytes for.
    page = render(summary).encode("utf-8", "replace")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Named here and not by tempfile, whose files only their owner may read.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(page)
        os.replace(temporary, path)  # noqa: PTH105  (the call whose atomicity is documented)
    finally:
        temporary.unlink(missing_ok=True)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = _duration
    environment.globals["metric_rows"] = _metric_rows
    environment.globals["curve_rows"] = _curve_rows
    environment.globals["chart"] = _chart
    return environment


def _metric_rows(table: MetricTable) -> list[tuple[MetricRow, list[tuple[float | None, str, bool]]]]:
    """Each row with its cells: the value, its text, and whether it is its column's best."""
    columns = [[row.values[i] for row in table.rows] for i in range(len(table.columns))]
    texts = [_column_texts(values) for values in columns]
    best = [_column_best(*column) for column in zip(table.columns, columns, texts, strict=True)]
    return [
        (row, [(value, texts[i][line], best[i][line]) for i, value in enumerate(row.values)])
        for line, row in enumerate(table.rows)
    ]


def _column_texts(values: Sequence[float | None]) -> list[str]:
    """One table column as text, all with the same decimals so that the digits line up; None gives ''."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    largest = max((abs(value) for value in known), default=0.0)
    if largest >= 10 and all(float(value).is_integer() for value in known):
        decimals = 0
    elif largest == 0 or 0.01 <= largest < 1:
        decimals = 4
    else:
        decimals = min(8, max(0, 3 - math.floor(math.log10(largest))))
    return ["" if value is None else f"{value:,.{decimals}f}" for value in values]


def _column_best(column: str, values: list[float | None], texts: list[str]) -> list[bool]:
    """Which values are the column's best; values that read the same share the place."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known:
        return [False] * len(values)
    best = min(known) if column.rstrip().endswith(LOWER_IS_BETTER) else max(known)
    return [text == texts[values.index(best)] for text in texts]


def _curve_rows(curve: Curve) -> list[tuple[float, list[float | None]]]:
    """The points of all series as table rows, ordered by x; a repeated x in one series takes a row of its own."""
    rows: dict[tuple[float, int], list[float | None]] = {}
    for column, points in enumerate(curve.series.values()):
        seen: dict[float, int] = {}
        for x, y in points:
            seen[x] = seen.get(x, 0) + 1
            rows.setdefault((x, seen[x]), [None] * len(curve.series))[column] = y
    return [(x, rows[x, n]) for x, n in sorted(rows)]


@dataclass(frozen=True)
class _Chart:
    """A line chart in the units of its SVG: ticks as (place, label), each series as runs of points without a gap."""

    left: float
    right: float
    top: float
    bottom: float
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[list[list[tuple[float, float]]]]


def _chart(curve: Curve, width: float, height: float) -> _Chart | None:
    """Lay the curve out; None if it has no finite point."""
    points = [(x, y) for series in curve.series.values() for x, y in series if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return None
    x_values, y_values = [x for x, _ in points], [y for _, y in points]
    x_ticks = _ticks(min(x_values), max(x_values), whole=all(float(x).is_integer() for x in x_values))
    y_ticks = _ticks(min(y_values), max(y_values), whole=False)
    # Lines reach both sides of the frame, unless there is one x only; up and down they stay between two ticks.
    x_low, x_high = min(x_values), max(x_values)
    if x_low == x_high:
        x_low, x_high = x_ticks[0][0], x_ticks[-1][0]
    y_low, y_high = y_ticks[0][0], y_ticks[-1][0]
    left, right, top, bottom = 12 + 6.2 * max(len(label) for _, label in y_ticks), width - 20, 8, height - 22

    def across(x: float) -> float:
        return round(left + (right - left) * (x - x_low) / (x_high - x_low), 2)

    def down(y: float) -> float:
        return round(bottom - (bottom - top) * (y - y_low) / (y_high - y_low), 2)

    lines = []
    for series in curve.series.values():
        runs: list[list[tuple[float, float]]] = [[]]
        for x, y in series:
            if math.isfinite(x) and math.isfinite(y):
                runs[-1].append((across(x), down(y)))
            elif runs[-1]:
                runs.append([])
        lines.append([run for run in runs if run])
    return _Chart(
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=[(across(x), label) for x, label in x_ticks if x_low <= x <= x_high],
        y_ticks=[(down(y), label) for y, label in y_ticks],
        lines=lines,
    )


def _ticks(low: float, high: float, whole: bool) -> list[tuple[float, str]]:
    """Round values from at or below ``low`` to at or above ``high``, with labels of equal decimals."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        margin = 0.1 * abs(low) or 1.0
        low, high = low - margin, high + margin
    # Ten digits are enough for a label and leave out the rounding noise of 0.1 + 0.2.
    values = [float(f"{value:.10g}") for value in MaxNLocator(nbins=6, integer=whole).tick_values(low, high)]
    decimals = max(max(0, -int(Decimal(repr(value)).normalize().as_tuple().exponent)) for value in values)
    return [(value, f"{value:,.{decimals}f}".replace("-", "−")) for value in values]


def _duration(seconds: float) -> str:
    """Seconds in the unit that a reader would choose: 0.42 s, 12.3 s, 4 min 05 s, 1 h 02 min."""
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
