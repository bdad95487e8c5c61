"""Quality of one model on one data set, by the protocol that others report, beside what they report.

python benchmarks/quality.py graph_tower --data FOLDER

The first argument names a file of ``benchmarks/quality/models``: the settings, and nothing else. The data set is
recognised by its files (``cases.read_case``). Each seed fits the model, saves and loads its towers as the pipeline
does, and ranks the whole catalogue. The row goes into ``benchmarks/quality/results``, and the table of the data
set is written anew from all its rows and ``published.yaml``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import yaml
from cases import Case, read_case
from quality_table import Row, save_row, write_table

from twotower.features.spec import Spec
from twotower.models.candidates import TowerRetriever
from twotower.models.contract import TrainingData
from twotower.models.exports import TowersExport
from twotower.models.moments import request_times
from twotower.models.queries import Queries
from twotower.models.rankers import fit as fit_ranker
from twotower.models.ranking_contract import RankingData
from twotower.models.retrievers import fit
from twotower.models.sampled_negatives import SampledMetrics, SampledNegatives

FOLDER = Path(__file__).parent / "quality"
BLOCK = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(file.stem for file in (FOLDER / "models").glob("*.yaml")))
    parser.add_argument("--data", type=Path, required=True, help="a folder that cases.read_case knows")
    parser.add_argument("--spec", type=Path, help="the spec, where the folder is a run of the pipeline")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--cutoff", type=int, default=20, help="places of a list that count (NCF's protocol: 10)")
    parser.add_argument("--results", type=Path, default=FOLDER / "results")
    arguments = parser.parse_args()
    models = yaml.safe_load((FOLDER / "models" / f"{arguments.model}.yaml").read_text(encoding="utf-8"))
    case = read_case(arguments.data, arguments.spec, arguments.cutoff)
    save_row(arguments.results, case.name, measure(case, arguments.model, models, arguments.seeds))
    table = write_table(arguments.results, case.name, FOLDER / "published.yaml")
    print(table.read_text(encoding="utf-8"))


def measure(case: Case, name: str, models: dict[str, object], seeds: list[int]) -> Row:
    """Fit and evaluate ``name`` once a seed."""
    metrics: dict[str, list[dict[str, float]]] = {}
    fit_seconds, evaluation_seconds, parameters = [], [], 0
    for seed in seeds:
        spec = case.spec(models, seed)
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            retriever, queries, parameters = _fitted(case, spec, Path(folder))
            fit_seconds.append(time.monotonic() - started)
            started = time.monotonic()
            if "ranking" not in models:
                vectors = _query_vectors(retriever, case, spec)
                for ranked in case.ranked:
                    found = ranked.protocol.evaluate_vectors(vectors, retriever.items, ranked.task)
                    k = found.k
                    values = {f"Recall@{k}": found.recall, f"NDCG@{k}": found.ndcg, f"MAP@{k}": found.map}
                    metrics.setdefault(ranked.label, []).append({**values, "coverage": found.coverage})
                if case.sampled is not None:
                    sampled = case.sampled.evaluate_vectors(vectors, retriever.items, 10)
                    metrics.setdefault(sampled.protocol, []).append(_sampled(sampled))
            elif case.sampled is not None:
                started = time.monotonic()
                sampled, parameters = _ranker(case, spec, retriever, queries, case.sampled, Path(folder))
                metrics.setdefault(sampled.protocol, []).append(_sampled(sampled))
                fit_seconds[-1] = time.monotonic() - started
            else:
                raise SystemExit(f"{name}: a ranker alone is only measured among sampled negatives; see the report")
            evaluation_seconds.append(time.monotonic() - started)
        print(f"seed {seed}: fit {fit_seconds[-1]:.0f} s, evaluation {evaluation_seconds[-1]:.0f} s", file=sys.stderr)
        for label, runs in metrics.items():
            print(f"  {label}: " + "  ".join(f"{key} {value:.4f}" for key, value in runs[-1].items()), file=sys.stderr)
    return Row(
        name, models, seeds, metrics, parameters, float(np.mean(fit_seconds)), float(np.mean(evaluation_seconds))
    )


def _fitted(case: Case, spec: Spec, folder: Path) -> tuple[TowerRetriever, Queries, int]:
    """The towers, through the SavedModel that the pipeline would push; and how many numbers they hold."""
    towers = fit(TrainingData(spec, case.catalogue, case.train, case.n_users, folder / "curve"))
    export = TowersExport(towers, case.train.encodings, case.catalogue.encodings, spec.retrieval.history_length)
    tf.saved_model.save(export, str(folder / "towers"))
    queries = Queries(spec, case.asked, len(case.catalogue))
    numbers = sum(int(np.prod(v.shape)) for v in export.variables if v.dtype.is_floating)
    return TowerRetriever(str(folder / "towers"), case.catalogue, queries), queries, numbers


def _query_vectors(retriever: TowerRetriever, case: Case, spec: Spec) -> npt.NDArray[Any]:
    """[asked users, dim] when each asks, with all that was known before."""
    rows = np.arange(len(case.asked))
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    times = request_times(spec.split, case.asked.labels)
    return np.concatenate([retriever.embed_latest(block, times[block]) for block in blocks])


def _ranker(
    case: Case, spec: Spec, retriever: TowerRetriever, queries: Queries, sampled: SampledNegatives, folder: Path
) -> tuple[SampledMetrics, int]:
    """The ranker's metrics among the sampled negatives, and how many numbers it holds."""
    data = RankingData(spec, case.catalogue, case.train, case.n_users, queries, retriever, folder)
    ranker = fit_ranker(data)
    moments = request_times(spec.split, case.asked.labels)

    def score(users: npt.NDArray[Any], items: npt.NDArray[Any]) -> npt.NDArray[Any]:
        ends = tf.constant(queries.history_ends(users))
        features = queries.features(tf.constant(users), ends, tf.constant(moments[users]), 1)
        return np.asarray(ranker(features, tf.constant(items))["bought"])

    assert isinstance(ranker, tf.Module)
    numbers = sum(int(np.prod(v.shape)) for v in ranker.variables if v.dtype.is_floating)
    return sampled.evaluate_scores(score, 10), numbers


def _sampled(metrics: SampledMetrics) -> dict[str, float]:
    return {f"HR@{metrics.k}": metrics.hit_rate, f"NDCG@{metrics.k}": metrics.ndcg}


if __name__ == "__main__":
    main()
