"""Early stopping on the evaluation metric: NDCG on products new to the user, on the last days of training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.spec import Spec
from twotower.models.contract import Towers
from twotower.models.protocol import EvaluationProtocol
from twotower.models.queries import Queries
from twotower.models.replicas import mean_of_replicas
from twotower.models.tables import Catalogue, Users
from twotower.models.training import progress

# Users that an evaluation asks, and epochs without a better value that end training.
SAMPLE_USERS, PATIENCE = 1000, 2
BLOCK = 8192


def before(users: Users, time: int) -> Users:
    """The users with their events strictly before ``time`` alone."""
    keep = users.history.times < time
    context = {name: values[keep] for name, values in users.context.items()}
    return replace(users, history=users.history.before(time), context=context)


class KeepBest(tf.keras.callbacks.Callback):
    """Evaluates after each epoch, stops when nothing is gained any more, and puts the best epoch's weights back.

    Under a strategy each replica evaluates, and all go by the mean; on parameter servers the chief does, which holds a
    copy of the weights.

    Args:
        towers: what is trained.
        spec: the shop; the validation period is the last ``validation_days`` of training.
        catalogue: all of it is ranked.
        train: the users with their events before the split, the validation period's too.
        start: when the validation period begins, unix seconds.

    Raises:
        ValueError: nobody buys something new in the validation period.
    """

    def __init__(self, towers: Towers, spec: Spec, catalogue: Catalogue, train: Users, start: int) -> None:
        super().__init__()
        self._towers, self._catalogue, self._start = towers, catalogue, start
        self._length = spec.retrieval.history_length
        history, labels = train.history.before(start), train.history.since(start)
        protocol = EvaluationProtocol(history, history, labels, len(catalogue), 0, spec.evaluation.cutoffs[0])
        users = protocol.evaluated_users("new")
        if not len(users):
            raise ValueError(
                "retrieval.validation_days: no user buys something new in the last days of training, "
                "expected a longer validation period, or 0"
            )
        self._users = np.random.default_rng(spec.seed).permutation(users)[:SAMPLE_USERS]
        self._protocol = replace(protocol, history=history.select(self._users), labels=labels.select(self._users))
        self._queries = Queries(spec, before(train, start), len(catalogue))
        self._of_all = mean_of_replicas()
        self._best, self._weights, self._epoch = -1.0, [np.empty(0)], 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Evaluate; ``logs`` gets ``ndcg``."""
        found = self._of_all(self.ndcg())
        if logs is not None:
            logs["ndcg"] = found
        if found > self._best:
            self._best, self._epoch, self._weights = found, epoch, self.model.get_weights()
        elif epoch - self._epoch >= PATIENCE:
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Put the best weights back."""
        del logs
        self.model.set_weights(self._weights)
        progress.info(f"kept epoch {self._epoch + 1}, validation NDCG {self._best:.4f}")

    def ndcg(self) -> float:
        """Of the sampled users' lists, as the towers are now."""
        items = np.concatenate([self._embed_items(start) for start in range(0, len(self._catalogue), BLOCK)])
        return float(self._protocol.evaluate_vectors(self._embed_queries, items, "new").ndcg)

    def _embed_items(self, start: int) -> npt.NDArray[np.float32]:
        rows = np.arange(start, min(start + BLOCK, len(self._catalogue)))
        features = {name: tf.constant(table[rows]) for name, table in self._catalogue.features.items()}
        return np.asarray(self._towers.candidate({"item_id": tf.constant(rows), **features}))

    def _embed_queries(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        users = self._users[rows]
        ends = tf.constant(self._queries.history_ends(users))
        times = tf.fill([len(users)], tf.constant(self._start, tf.int64))
        return np.asarray(self._towers.query(self._queries.features(tf.constant(users), ends, times, self._length)))
