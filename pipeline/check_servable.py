"""Check: the composed recommenders, loaded in fresh processes, asked for every test user, and judged as served."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tfx import v1 as tfx
from tfx.types import Artifact, artifact_utils, standard_artifacts

from twotower.features.spec import Spec
from twotower.models.transformed import Transformed
from twotower.pipeline import blessing as blessings
from twotower.pipeline import scores
from twotower.pipeline.artifacts import Summary
from twotower.pipeline.pusher import newest_version

progress = logging.getLogger("twotower.progress")

Int32 = npt.NDArray[np.int32]


@tfx.dsl.components.component
def CheckServable(  # noqa: N802 (a component's name)
    servables: tfx.dsl.components.InputArtifact[standard_artifacts.Model],
    examples: tfx.dsl.components.InputArtifact[standard_artifacts.Examples],
    transform_graph: tfx.dsl.components.InputArtifact[standard_artifacts.TransformGraph],
    transformed_examples: tfx.dsl.components.InputArtifact[standard_artifacts.Examples],
    retrieval_blessing: tfx.dsl.components.InputArtifact[standard_artifacts.ModelBlessing],
    retrieval_scores: tfx.dsl.components.InputArtifact[Summary],
    ranking_blessing: tfx.dsl.components.InputArtifact[standard_artifacts.ModelBlessing],
    blessing: tfx.dsl.components.OutputArtifact[standard_artifacts.ModelBlessing],
    infra_blessing: tfx.dsl.components.OutputArtifact[standard_artifacts.InfraBlessing],
    summary: tfx.dsl.components.OutputArtifact[Summary],
    spec: tfx.dsl.components.Parameter[str],
    push_folder: tfx.dsl.components.Parameter[str],
) -> None:
    """Infra-bless servables that answer, and bless the recommender if it and both its models are good enough.

    The last pushed version is asked the same; its lists are judged on the same data.
    """
    whole = Spec.model_validate_json(spec)
    data = Transformed(whole, transform_graph.uri, transformed_examples.uri)
    asked = data.users("eval")
    rows = {name: row for row, name in enumerate(data.item_ids())}
    sets = scores.protocols(whole, data.users("train"), asked, len(rows))
    order = {name: row for row, name in enumerate(asked.ids)}
    raw = artifact_utils.get_split_uri([examples], "eval")
    k = min(len(rows), max(whole.ranking.candidates, whole.evaluation.cutoff))
    found: list[scores.Score] = []

    def judge(name: str, folder: Path, first_stage: bool = False) -> None:
        out = Path(summary.uri, f"{name.replace(' ', '_')}.npz")
        progress.info(f"asking {name} for {len(asked):,} users' lists")
        _ask(folder, raw, out, whole.split.start, k)
        with np.load(out) as answers:
            places = np.array([order[user] for user in answers["users"]])
            lists = {kind: np.full((len(asked), k), -1, np.int32) for kind in ("recommend", "retrieve")}
            for kind, array in lists.items():
                array[places] = _as_rows(answers[kind], rows)
        found.extend(scores.score(name, sets, lambda p, task: p.evaluate_lists(lists["recommend"], task)))
        if first_stage:
            stage = f"{name}: first stage"
            found.extend(scores.score(stage, sets, lambda p, task: p.evaluate_lists(lists["retrieve"], task)))

    served, other = whole.serving.index, {"scann": "portable", "portable": "scann"}[whole.serving.index]
    judge("recommender", Path(servables.uri, served), first_stage=True)
    judge(f"recommender ({other} index)", Path(servables.uri, other))
    blessings.write(infra_blessing, True, "both servables answered in fresh processes")
    previous = newest_version(Path(push_folder, whole.serving.model_name))
    if previous is not None:
        judge("last pushed", previous)
    scores.save(found, Path(summary.uri, "scores.json"))
    reasons = [_judge_quality(whole, found, scores.load(Path(retrieval_scores.uri, "scores.json")))]
    reasons += [_reason("retrieval", retrieval_blessing), _reason("ranking", ranking_blessing)]
    problems = [reason for reason in reasons if reason]
    verdict = "; ".join(problems) or "better than popularity, and no worse than the last pushed version"
    progress.info(f"{'not blessed' if problems else 'blessed'}: {verdict}")
    blessings.write(blessing, not problems, verdict)


def _ask(model: Path, examples: str, out: Path, time: int, k: int) -> None:
    """Run ``ask_servable`` in a fresh process; its last line of error becomes ours."""
    command = [sys.executable, "-m", "twotower.pipeline.ask_servable", str(model), examples, str(out)]
    done = subprocess.run([*command, "--time", str(time), "--k", str(k)], capture_output=True, text=True, check=False)
    if done.returncode:
        logging.error(done.stderr)
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{model}: the servable failed its check in a fresh process: {last}")


def _as_rows(ids: npt.NDArray[np.bytes_], rows: dict[bytes, int]) -> Int32:
    """Ids [n, k] to catalogue rows; padding, and what the catalogue no longer has, is -1 and moved to the end."""
    found = np.array([[rows.get(name, -1) for name in line] for line in ids.tolist()], dtype=np.int32)
    return np.take_along_axis(found, np.argsort(found < 0, axis=1, kind="stable"), axis=1)


def _judge_quality(spec: Spec, found: list[scores.Score], baselines: list[scores.Score]) -> str:
    """Why the recommender is not good enough, or nothing."""
    main, k = spec.evaluation.candidates[0].name, spec.evaluation.cutoff
    ours = scores.find(found, "recommender", main, "all")
    popular = scores.find(baselines, "popularity", main, "all")
    last = scores.find(found, "last pushed", main, "all")
    assert ours is not None
    assert popular is not None
    if ours.ndcg <= popular.ndcg:
        return f"NDCG@{k} {ours.ndcg:.4f} does not beat popularity's {popular.ndcg:.4f}"
    if last is not None and ours.ndcg < last.ndcg * (1 - spec.evaluation.tolerance):
        return f"NDCG@{k} {ours.ndcg:.4f} falls below the last pushed version's {last.ndcg:.4f}"
    return ""


def _reason(name: str, blessing: Artifact) -> str:
    blessed, reason = blessings.read(blessing)
    return "" if blessed else f"{name} was not blessed: {reason}"
