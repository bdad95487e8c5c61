"""One worker of two: the weights after a few steps, written to a file; ``test_distributed_training`` starts it."""

import json
import os
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from test_retrieval import blocks, catalogue_of, shop_spec

from twotower.models.retrieval import Retrieval, build_towers
from twotower.models.training_events import TrainingEvents, training_dataset

SPEC = shop_spec(
    batch_size=32, uniform_negatives=8, events_per_user=2, id_dropout=0.0, graph_factors=3, hard_negatives=0.5
)
UNIFORM = np.array([0, 3, 3, 11, 5, 7, 0, 2], np.int32)
STEPS = 3


def moved(replica: int, replicas: int) -> list[npt.NDArray[Any]]:
    """The trainable weights after ``STEPS`` steps, and the steps' losses as the first of them.

    Moved by the gradients as they are: Adam would hide their scale, and blow up the rounding of those that are nil.
    """
    strategy = tf.distribute.get_strategy()
    users, catalogue = blocks(), catalogue_of(12)
    events = TrainingEvents.choose(SPEC, users, 12)
    tf.keras.utils.set_random_seed(SPEC.seed)
    query, candidate = build_towers(SPEC, catalogue, users, 60, events)
    model = Retrieval(query, candidate, catalogue, events.item_share, SPEC)
    optimizer = tf.keras.optimizers.SGD(1.0)
    dataset = strategy.distribute_datasets_from_function(
        lambda context: training_dataset(SPEC, users, 12, events, 1, context)
    )
    uniform = tf.constant(np.split(UNIFORM, replicas)[replica])

    def replica_step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model.loss_against(batch, uniform, training=True)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    @tf.function
    def step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        return strategy.reduce("SUM", strategy.run(replica_step, (batch,)), axis=None)

    batches = iter(dataset)
    losses = [float(step(next(batches))) for _ in range(STEPS)]
    return [np.array(losses), *(variable.numpy() for variable in model.trainable_variables)]


def main() -> None:
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    with strategy.scope():
        found = moved(index, 2)
    np.savez(sys.argv[1], *found)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
