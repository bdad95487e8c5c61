"""The rows of a data set as JSON, and its table as Markdown, published rows beside ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml


@dataclass(frozen=True)
class Row:
    """A model on a data set.

    Attributes:
        model: the configuration's name; settings: what it holds.
        seeds: one run each.
        metrics: by protocol, one mapping a seed.
        parameters: numbers in the exported model.
        fit_seconds, evaluation_seconds: means over the seeds.
    """

    model: str
    settings: Mapping[str, Any]
    seeds: Sequence[int]
    metrics: Mapping[str, Sequence[Mapping[str, float]]]
    parameters: int
    fit_seconds: float
    evaluation_seconds: float


def save_row(folder: Path, data: str, row: Row) -> None:
    """Put the row in place of the model's older one."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [old for old in _rows(folder, data) if old.model != row.model]
    text = json.dumps([asdict(one) for one in (*rows, row)], indent=1)
    (folder / f"{data}.json").write_text(text + "\n", encoding="utf-8")


def write_table(folder: Path, data: str, published: Path) -> Path:
    """Write the table of every protocol, best NDCG first; returns the file."""
    rows = _rows(folder, data)
    others = yaml.safe_load(published.read_text(encoding="utf-8")).get(data, {})
    lines = [
        f"# {data}",
        "",
        "Written by `benchmarks/quality.py`. Our rows are means over the seeds, ± half the range.",
    ]
    for protocol in sorted({label for row in rows for label in row.metrics}):
        measured = [row for row in rows if protocol in row.metrics]
        names = list(measured[0].metrics[protocol][0])
        table = [(_mean(row, protocol, names), _ours(row, protocol, names)) for row in measured]
        table += [
            (values, _theirs(name, values, source, names)) for name, values, source in _published(others, protocol)
        ]
        ndcg = next(name for name in names if name.startswith("NDCG"))
        table.sort(key=lambda entry: -entry[0].get(ndcg, 0.0))
        header = ["model", *names, "seeds", "parameters", "fit s", "source"]
        lines += ["", f"## {protocol}", "", _line(header), _line(["---"] * len(header))]
        lines += [line for _, line in table]
    file = folder / f"{data}.md"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def _rows(folder: Path, data: str) -> list[Row]:
    file = folder / f"{data}.json"
    return [Row(**row) for row in json.loads(file.read_text(encoding="utf-8"))] if file.exists() else []


def _published(others: Mapping[str, Any], protocol: str) -> list[tuple[str, dict[str, float], str]]:
    """(model, metrics, source) of the published rows of a protocol."""
    section = others.get(protocol, {})
    return [
        (name, dict(zip(section["metrics"], values[:-1], strict=True)), str(values[-1]))
        for name, values in section.get("rows", {}).items()
    ]


def _mean(row: Row, protocol: str, names: Sequence[str]) -> dict[str, float]:
    return {name: float(np.mean([run[name] for run in row.metrics[protocol]])) for name in names}


def _ours(row: Row, protocol: str, names: Sequence[str]) -> str:
    cells = []
    for name in names:
        values = [run[name] for run in row.metrics[protocol]]
        spread = (max(values) - min(values)) / 2
        cells.append(f"{np.mean(values):.4f}" + (f" ± {spread:.4f}" if len(values) > 1 else ""))
    seeds = ", ".join(map(str, row.seeds))
    return _line([f"**{row.model}**", *cells, seeds, f"{row.parameters:,}", f"{row.fit_seconds:.0f}", "this project"])


def _theirs(name: str, values: Mapping[str, float], source: str, names: Sequence[str]) -> str:
    cells = [f"{values[metric]:.4f}" if metric in values else "" for metric in names]
    return _line([name, *cells, "", "", "", source])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
