"""What training says and leaves behind."""

import json
import logging
from pathlib import Path

import pytest
import tensorflow as tf
import tensorflow_recommenders as tfrs

from twotower.models.training import CURVE_FILE, Progress, schedule


class Toy(tfrs.models.Model):
    """Learns to double a number; like every TFRS model, it logs the loss of the last batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = tf.keras.layers.Dense(1)

    def compute_loss(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.reduce_mean(tf.square(self.layer(inputs) - 2 * inputs))


def test_the_curve_and_a_line_an_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tf.keras.utils.set_random_seed(1)
    model = Toy()
    model.compile(optimizer=tf.keras.optimizers.SGD(0.1))
    batches = tf.data.Dataset.from_tensor_slices([[1.0], [2.0], [3.0], [4.0]]).batch(2)
    folder = tmp_path / "not" / "there yet"
    seen: list[float] = []
    watch = tf.keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: seen.append(logs["loss"]))
    with caplog.at_level(logging.INFO, logger="twotower.progress"):
        model.fit(batches, epochs=3, verbose=0, callbacks=[watch, Progress(3, 2, 2, str(folder))])
    curve = json.loads((folder / CURVE_FILE).read_text(encoding="utf-8"))
    assert [entry["epoch"] for entry in curve] == [1, 2, 3]
    # An epoch's loss is the mean of its two batches', not the last one's.
    assert [entry["loss"] for entry in curve] == pytest.approx([sum(seen[i : i + 2]) / 2 for i in (0, 2, 4)])
    lines = [record.getMessage() for record in caplog.records if "examples/s" in record.getMessage()]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert lines[1].split("  ")[1] == f"loss {curve[1]['loss']:.4f}"


def test_the_rate_rises_and_falls() -> None:
    rate = schedule(0.5, "warmup_cosine", 100)
    assert not isinstance(rate, float)
    # Ten steps up, ninety down: half-way down it is half.
    assert [float(rate(step)) for step in (0, 5, 10, 55, 100)] == pytest.approx([0, 0.25, 0.5, 0.25, 0], abs=1e-6)
    assert schedule(0.5, "constant", 100) == 0.5
