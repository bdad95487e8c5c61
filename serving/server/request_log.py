"""A sample of the requests and their answers, as TFRecords of `PredictionLog`.

That is TensorFlow Serving's own record, which also serves as a warm-up record. A file is written under another name and
renamed when it is full or a minute old, so that a reader finds whole files only.
"""

import logging
import os
import queue
import random
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from twotower.serving.server.metrics import Metrics
from twotower.serving.server.model_config import LogConfig

LOGGER = logging.getLogger(__name__)

WAITING_RECORDS = 1_000
FILE_SECONDS = 60.0
FILE_BYTES = 64 * 2**20


class RequestLog:
    """Samples requests and writes them in a thread of its own, so that a slow disk never holds up an answer.

    Args:
        metrics: where the written and the dropped records are counted.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._configs: Mapping[str, LogConfig] = {}
        self._queue: queue.Queue[tuple[str, str, bytes] | None] = queue.Queue(WAITING_RECORDS)
        self._writer = threading.Thread(target=self._write, name="request-log")
        self._started = False

    def configure(self, configs: Mapping[str, LogConfig]) -> None:
        """Logs these models' requests and no others'."""
        self._configs = dict(configs)
        if configs and not self._started:
            self._started = True
            self._writer.start()

    def wants(self, model: str) -> LogConfig | None:
        """Whether this request of the model is in the sample, and how it is logged then."""
        config = self._configs.get(model)
        if config is None or random.random() >= config.rate:
            return None
        return config

    def add(self, config: LogConfig, model: str, version: int, kind: str, request: Any, response: Any) -> None:
        """Queues a record; where too many wait it is dropped and counted.

        Args:
            config: as `wants` returned it.
            model, version: which answered.
            kind: the record's field: `predict_log`, `classify_log`, `regress_log` or `multi_inference_log`.
            request, response: the messages.
        """
        record = prediction_log_pb2.PredictionLog()
        record.log_metadata.model_spec.name = model
        record.log_metadata.model_spec.version.value = version
        record.log_metadata.sampling_config.sampling_rate = config.rate
        entry = getattr(record, kind)
        entry.request.CopyFrom(request)
        entry.response.CopyFrom(response)
        try:
            self._queue.put_nowait((model, config.prefix, record.SerializeToString()))
        except queue.Full:
            self._metrics.logged.add(model, "dropped")

    def close(self) -> None:
        """Writes what waits and closes the files."""
        if self._started:
            self._queue.put(None)
            self._writer.join()

    def _write(self) -> None:
        files: dict[str, _File] = {}
        ended = False
        while not ended:
            try:
                item = self._queue.get(timeout=1.0)
            except queue.Empty:
                pass  # a file may have become old
            else:
                ended = item is None
                if item is not None:
                    self._append(files, *item)
            for prefix in [prefix for prefix, file in files.items() if ended or file.is_due()]:
                try:
                    files.pop(prefix).close()
                except (OSError, tf.errors.OpError) as error:
                    LOGGER.error("%s: the request log cannot be closed: %s", prefix, error)

    def _append(self, files: "dict[str, _File]", model: str, prefix: str, record: bytes) -> None:
        try:
            file = files.get(prefix) or files.setdefault(prefix, _File(prefix))
            file.write(record)
            self._metrics.logged.add(model, "written")
        except (OSError, tf.errors.OpError) as error:
            LOGGER.error("%s: the request log cannot be written: %s", prefix, error)
            self._metrics.logged.add(model, "dropped")


class _File:
    """One file of records, invisible to readers until it is closed."""

    def __init__(self, prefix: str) -> None:
        path = Path(f"{prefix}-{time.time_ns()}-{os.getpid()}.tfrecord")
        self._path, self._partial = path, path.with_name(f".{path.name}.partial")
        self._opened = time.monotonic()
        self._bytes = 0
        self._writer = tf.io.TFRecordWriter(str(self._partial))

    def write(self, record: bytes) -> None:
        self._writer.write(record)
        self._bytes += len(record)

    def is_due(self) -> bool:
        return self._bytes >= FILE_BYTES or time.monotonic() - self._opened >= FILE_SECONDS

    def close(self) -> None:
        self._writer.close()
        self._partial.rename(self._path)
