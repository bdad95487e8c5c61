"""Model size against accuracy: widths, depths, shared id tables and few-bit tables, against NDCG and bytes.

    python benchmarks/size.py graph_tower --data FOLDER --out FOLDER
    python benchmarks/size.py two_tower --data FOLDER --out FOLDER --seeds 1 2

Each point is one fit, saved at each precision as the pipeline saves it: the towers with their tables, and the
index with the items' vectors. Bytes are those of the two on disk. The rival stands in every row: the same fit with
tables of float32. The folder is one that ``benchmarks/quality/cases.py`` recognises.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from cases import Case, read_case

from twotower.features.model_choices import GraphTower
from twotower.features.section import Precision
from twotower.features.spec import Spec, Split
from twotower.models.candidates import TowerRetriever
from twotower.models.contract import Towers, TrainingData
from twotower.models.exports import TowersExport
from twotower.models.family.graph_tower import GraphFilter
from twotower.models.family.interactions import interaction_matrix
from twotower.models.family.table_towers import HistorySum, ItemTable
from twotower.models.moments import request_times
from twotower.models.queries import Queries
from twotower.models.retrievers import fit
from twotower.serving.index import build_index
from twotower.serving.index.export import IndexExport

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
COLOURS: Mapping[Precision, str] = {"float32": "#444444", "int8": "#1b7fbd", "int4": "#d1495b"}


@dataclass(frozen=True)
class Point:
    """One setting of a model: its curve, what it is called there, and the keys of ``retrieval``."""

    curve: str
    label: str
    retrieval: Mapping[str, Any] = field(compare=False)


@dataclass(frozen=True)
class Measured:
    """A point at a precision: NDCG of each asked user, means over the seeds, and bytes on disk."""

    ndcg: npt.NDArray[np.float64]
    nbytes: int


def points(model: str, widths: list[int], buckets: list[int]) -> Iterator[Point]:
    """The curves of a model."""
    if model == "graph_tower":
        for width in widths:
            yield Point("width", f"{width} factors", {"model": model, "factors": width})
        return
    for width in widths:
        yield Point("width", f"width {width}", {"embedding_dim": width})
    for units in ([], [128], [128, 128]):
        yield Point("depth", f"{len(units)} hidden layers", {"tower_units": units})
    yield Point("id table", "full", {})
    for table in ("hashed", "quotient_remainder"):
        for count in buckets:
            settings = {"id_table": table, "id_buckets": count}
            yield Point("id table", f"{table.replace('_', '-')}, {count:,} buckets", settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["graph_tower", "two_tower"])
    parser.add_argument("--data", type=Path, required=True, help="a folder with train.txt and test.txt, or the like")
    parser.add_argument("--spec", type=Path, help="the spec, where the folder is a run of the pipeline")
    parser.add_argument("--out", type=Path, required=True, help="where the table and the picture go")
    parser.add_argument("--widths", type=int, nargs="+", help="numbers of factors, or of dimensions")
    parser.add_argument("--buckets", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--users", type=int, default=5_000, help="evaluated users, drawn once")
    arguments = parser.parse_args()
    widths = arguments.widths or ([16, 64, 256, 1024] if arguments.model == "graph_tower" else [16, 32, 64, 128])
    case = read_case(arguments.data, arguments.spec, 20)
    found: dict[Point, dict[Precision, Measured]] = {}
    # The default stands on every curve and is fitted once.
    known: dict[str, dict[Precision, Measured]] = {}
    for point in points(arguments.model, widths, arguments.buckets):
        started = time.monotonic()
        spec = case.spec({"retrieval": dict(point.retrieval)}, arguments.seeds[0])
        key = spec.retrieval.model_dump_json()
        if key not in known:
            known[key] = measure(case, point, arguments.seeds, arguments.users)
        found[point] = known[key]
        print(f"{row(point, known[key])}  {time.monotonic() - started:.0f} s", flush=True)
        write(found, f"{arguments.model} on {case.name}", arguments.out / f"size_{arguments.model}_{case.name}")


def write(found: Mapping[Point, Mapping[Precision, Measured]], title: str, file: Path) -> None:
    """The table and the picture of what was measured so far."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [*HEAD, *(row(point, each) for point, each in found.items()), ""]
    file.with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")
    draw(found, title, file.with_suffix(".svg"))


def measure(case: Case, point: Point, seeds: list[int], users: int) -> dict[Precision, Measured]:
    """Fit once a seed and measure at each precision; a smaller one is made from the one before it."""
    runs: dict[Precision, list[Measured]] = {precision: [] for precision in PRECISIONS}
    for seed in seeds:
        spec = case.spec({"retrieval": dict(point.retrieval)}, seed)
        with tempfile.TemporaryDirectory() as folder:
            towers = fitted(case, spec, Path(folder))
            for precision in PRECISIONS:
                length = spec.retrieval.history_length
                export = TowersExport(towers, case.train.encodings, case.catalogue.encodings, length, precision)
                runs[precision].append(served(case, export, spec.split, precision, users, Path(folder)))
    return {
        precision: Measured(np.mean([run.ndcg for run in found], axis=0), found[0].nbytes)
        for precision, found in runs.items()
    }


def fitted(case: Case, spec: Spec, folder: Path) -> Towers:
    """The model; a graph tower as wide as was asked for, not as its held-out purchases would have it."""
    if not isinstance(spec.retrieval, GraphTower):
        return fit(TrainingData(spec, case.catalogue, case.train, case.n_users, folder / "curve"))
    found = GraphFilter.of(interaction_matrix(case.train.history, len(case.catalogue)), spec.retrieval, spec.seed)
    return Towers(HistorySum(found.left, power=0.5), ItemTable(found.right, np.zeros(len(found.right), np.float32)))


def served(case: Case, export: TowersExport, split: Split, precision: Precision, users: int, folder: Path) -> Measured:
    """Save towers and an exact index, and evaluate what was saved."""
    towers, index_folder = folder / f"towers_{precision}", folder / f"index_{precision}"
    tf.saved_model.save(export, str(towers))
    spec = case.spec({}, 1)
    retriever = TowerRetriever(str(towers), case.catalogue, Queries(spec, case.asked, len(case.catalogue)))
    tf.saved_model.save(
        IndexExport(build_index(retriever.items, "exact", seed=1, precision=precision)), str(index_folder)
    )
    index = tf.saved_model.load(str(index_folder))
    items = np.asarray(index.embeddings(tf.range(len(case.catalogue))))
    ranked = case.ranked[-1]  # of a run the strictest: new products that enough users bought
    everyone = ranked.protocol.evaluated_users(ranked.task)
    asked = np.sort(np.random.default_rng(0).permutation(everyone)[:users])
    history, labels = ranked.protocol.history.select(asked), ranked.protocol.labels.select(asked)
    protocol = replace(ranked.protocol, history=history, labels=labels)
    times = request_times(split, labels)
    metrics = protocol.evaluate_vectors(
        lambda rows: retriever.embed_latest(asked[rows], times[rows]), items, ranked.task
    )
    variables = [file for saved in (towers, index_folder) for file in saved.glob("variables/variables.data*")]
    return Measured(np.asarray(metrics.per_user.ndcg), sum(file.stat().st_size for file in variables))


HEAD = [
    "| curve | setting | float32 MB | NDCG@20 | int8 MB | smaller | NDCG@20 | int4 MB | smaller | NDCG@20 |",
    "|---|---|---|---|---|---|---|---|---|---|",
]


def row(point: Point, found: Mapping[Precision, Measured]) -> str:
    """A line of the table; a smaller precision's NDCG as its change, with the standard error over the users."""
    plain = found["float32"]
    cells = [point.curve, point.label, f"{plain.nbytes / 1e6:.2f}", f"{plain.ndcg.mean():.4f}"]
    for precision in PRECISIONS[1:]:
        each = found[precision]
        change = (each.ndcg - plain.ndcg) / plain.ndcg.mean()
        error = change.std() / np.sqrt(len(change))
        cells += [f"{each.nbytes / 1e6:.2f}", f"{plain.nbytes / each.nbytes:.1f}x"]
        cells.append(f"{change.mean():+.1%} ± {error:.1%}")
    return f"| {' | '.join(cells)} |"


def draw(found: Mapping[Point, Mapping[Precision, Measured]], title: str, file: Path) -> None:
    """A panel a curve: NDCG over bytes, a line a precision, and a family of shared tables a line."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    curves = list(dict.fromkeys(point.curve for point in found))
    figure, panels = plt.subplots(1, len(curves), figsize=(6.0 * len(curves), 4.2), squeeze=False, sharey=True)
    for panel, curve in zip(panels[0], curves, strict=True):
        families: dict[str, list[Point]] = {}
        for point in found:
            if point.curve == curve:
                families.setdefault(point.label.split(",")[0] if curve == "id table" else "", []).append(point)
        for family, marker in zip(families, "os^", strict=False):
            for precision in PRECISIONS:
                each = [found[point][precision] for point in families[family]]
                panel.plot(
                    [one.nbytes / 1e6 for one in each],
                    [one.ndcg.mean() for one in each],
                    marker=marker,
                    color=COLOURS[precision],
                    label=f"{family} {precision}".strip(),
                )
            for point in families[family]:
                plain = found[point]["float32"]
                text = point.label.split(", ")[-1].removesuffix(" buckets").removeprefix("width ")
                place = (plain.nbytes / 1e6, plain.ndcg.mean())
                panel.annotate(text, place, textcoords="offset points", xytext=(5, -11), fontsize=8)
        panel.set(xscale="log", xlabel="MB on disk, towers and index", title=f"{title}: {curve}")
        panel.margins(x=0.15, y=0.12)
        panel.grid(alpha=0.3, which="both")
        panel.legend(fontsize=8)
    panels[0][0].set_ylabel("NDCG@20")
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)


if __name__ == "__main__":
    main()
