"""Check: the composed recommenders, loaded in fresh processes, asked for every test user, and judged as served."""

import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import Artifact, artifact_utils, standard_artifacts

from twotower.features.spec import Spec
from twotower.models.moments import training_end
from twotower.models.queries import DAY
from twotower.models.transformed import Transformed
from twotower.pipeline import blessing as blessings
from twotower.pipeline import drift as drifts
from twotower.pipeline.artifacts import Summary
from twotower.pipeline.ask_servable import ASKED
from twotower.pipeline.evaluator import Evaluator
from twotower.pipeline.judge import LAST, OURS, judge_quality, judge_slices
from twotower.pipeline.pusher import newest_version
from twotower.pipeline.scores import Scores
from twotower.pipeline.servable_folders import asked_of, folders, other_kind
from twotower.serving import servable

progress = logging.getLogger("twotower.progress")

Int32 = npt.NDArray[np.int32]


@component
def CheckServable(  # noqa: N802 (a component's name)
    composed: InputArtifact[standard_artifacts.Model],
    examples: InputArtifact[standard_artifacts.Examples],
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    transformed_examples: InputArtifact[standard_artifacts.Examples],
    retrieval_blessing: InputArtifact[standard_artifacts.ModelBlessing],
    retrieval_scores: InputArtifact[Summary],
    ranking_blessing: InputArtifact[standard_artifacts.ModelBlessing],
    blessing: OutputArtifact[standard_artifacts.ModelBlessing],
    infra_blessing: OutputArtifact[standard_artifacts.InfraBlessing],
    summary: OutputArtifact[Summary],
    spec: Parameter[str],
    push_folder: Parameter[str],
    drift: InputArtifact[Summary] = None,
) -> None:
    """Infra-bless servables that answer, and bless the recommender if it and both its models are good enough.

    The last pushed version is asked the same; its lists are judged on the same data.
    """
    whole = Spec.model_validate_json(spec)
    evaluator = Evaluator(whole, Transformed(whole, transform_graph.uri, transformed_examples.uri))
    asked = evaluator.asked
    rows = {name: row for row, name in enumerate(evaluator.catalogue.ids)}
    order = {name: row for row, name in enumerate(asked.ids)}
    requests = Path(summary.uri, "requests.npz")
    np.savez(requests, users=asked.ids.astype(np.bytes_), times=evaluator.request_times)
    raw = artifact_utils.get_split_uri([examples], "eval")
    width = max(whole.ranking.candidates, *whole.evaluation.cutoffs)
    k = min(len(rows), width)

    def judge(name: str, models: Sequence[Path], first_stage: bool = False) -> None:
        out = Path(summary.uri, f"{name.replace(' ', '_')}.npz")
        progress.info(f"asking {name} for {len(asked):,} users' lists")
        ask(models, Path(raw), requests, out, k)
        with np.load(out) as answers:
            places = np.array([order[user] for user in answers["users"]])
            # A catalogue may be smaller than a cut-off.
            lists = {kind: np.full((len(asked), width), -1, np.int32) for kind in ASKED}
            for kind, array in lists.items():
                array[places, :k] = _as_rows(answers[kind], rows)
        # Who looks for something new says what is not.
        evaluator.measure(name, lambda p, task: lists["discover" if task == "new" else "recommend"])
        if first_stage:
            evaluator.measure(f"{name}: first stage", lambda p, task: lists["retrieve"])

    served, other = whole.serving.index, other_kind(whole.serving)
    names = list(folders(whole.serving))
    judge(OURS, asked_of(whole.serving, {name: Path(composed.uri, name) for name in names}, served), first_stage=True)
    others = asked_of(whole.serving, {name: Path(composed.uri, name) for name in names}, other)
    judge(f"{OURS} ({other} index)", others)
    blessings.write(infra_blessing, True, "all servables answered in fresh processes")
    pushed = {name: Path(push_folder, folder) for name, folder in folders(whole.serving).items()}
    previous = newest_version(pushed[served])
    if previous is not None:
        _say_unfair(pushed[served] / previous.name, training_end(whole.split, evaluator.train.history))
        judge(LAST, asked_of(whole.serving, {name: path / previous.name for name, path in pushed.items()}, served))
    evaluator.scores.save(Path(summary.uri, "scores.json"))
    reasons = [
        judge_quality(whole.evaluation, evaluator.scores, Scores.load(Path(retrieval_scores.uri, "scores.json")))
    ]
    if previous is not None:
        reasons += judge_slices(whole, evaluator.per_user[OURS, "all"], evaluator.per_user[LAST, "all"])
    reasons += [_reason("retrieval", retrieval_blessing), _reason("ranking", ranking_blessing)]
    if drift is not None:
        reasons += drifts.stops(Path(drift.uri))
    problems = [reason for reason in reasons if reason]
    verdict = "; ".join(problems) or "better than popularity, and no worse than the last pushed version"
    progress.info(f"{'not blessed' if problems else 'blessed'}: {verdict}")
    blessings.write(blessing, not problems, verdict)


def ask(models: Sequence[Path], examples: Path, requests: Path, out: Path, k: int) -> None:
    """Run ``ask_servable`` in a fresh process.

    Raises:
        RuntimeError: it failed; its last line of error becomes ours.
    """
    command = [sys.executable, "-m", "twotower.pipeline.ask_servable", *map(str, (models[0], examples, requests, out))]
    second = ["--ranking", str(models[1])] if len(models) > 1 else []
    done = subprocess.run([*command, "--k", str(k), *second], capture_output=True, text=True, check=False)
    if done.returncode:
        logging.error(done.stderr)
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{models[0]}: the servable failed its check in a fresh process: {last}")


def _as_rows(ids: npt.NDArray[np.bytes_], rows: dict[bytes, int]) -> Int32:
    """Ids [n, k] to catalogue rows; padding, and what the catalogue no longer has, is -1 and moved to the end."""
    found = np.array([[rows.get(name, -1) for name in line] for line in ids.tolist()], dtype=np.int32)
    return np.take_along_axis(found, np.argsort(found < 0, axis=1, kind="stable"), axis=1)


def _say_unfair(pushed: Path, start: int) -> None:
    """Say so where the pushed version was trained on some of the test: it is judged above its worth then, never below.

    A window that rolls with the data never goes back, so this is a split that was moved by hand.
    """
    trained_until = int(str(servable.card(pushed)["reference_time"]))
    if trained_until > start:
        days = (trained_until - start) / DAY
        progress.info(f"the last pushed version was trained on the test's first {days:.1f} days, which favours it")


def _reason(name: str, blessing: Artifact) -> str:
    blessed, reason = blessings.read(blessing)
    return "" if blessed else f"{name} was not blessed: {reason}"
