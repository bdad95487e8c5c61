"""What training says and leaves behind."""

import json
import logging
from pathlib import Path

import pytest
import tensorflow as tf

from twotower.models.training import CURVE_FILE, Progress


def test_the_curve_and_a_line_an_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tf.keras.utils.set_random_seed(1)
    model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
    model.compile(optimizer=tf.keras.optimizers.SGD(0.1), loss="mse")
    x = tf.constant([[1.0], [2.0], [3.0], [4.0]])
    folder = tmp_path / "not" / "there yet"
    with caplog.at_level(logging.INFO, logger="twotower.progress"):
        history = model.fit(x, 2 * x, epochs=3, batch_size=2, verbose=0, callbacks=[Progress(3, 2, 2, str(folder))])
    curve = json.loads((folder / CURVE_FILE).read_text(encoding="utf-8"))
    assert [entry["epoch"] for entry in curve] == [1, 2, 3]
    assert [entry["loss"] for entry in curve] == history.history["loss"]
    lines = [record.getMessage() for record in caplog.records if "examples/s" in record.getMessage()]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert lines[1].split("  ")[1] == f"loss {curve[1]['loss']:.4f}"
