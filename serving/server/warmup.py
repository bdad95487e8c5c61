"""Warm-up: a new version answers its recorded requests before it answers anyone's.

Lazy work (ScaNN builds its searcher on the first call, TensorFlow optimises each graph on its first run) is then
done before the version is switched in.
"""

from concurrent.futures import ThreadPoolExecutor

import grpc
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from twotower.serving.server.errors import ServingError, from_op_error, invalid_argument
from twotower.serving.server.examples import classify, multi_inference, regress
from twotower.serving.server.predict import predict
from twotower.serving.server.servable import Servable

REQUESTS_FILE = "assets.extra/tf_serving_warmup_requests"
MAX_RECORDS = 1000
_REPLAYS = {"classify_log": classify, "regress_log": regress, "multi_inference_log": multi_inference}


def warm_up(servable: Servable, threads: int = 1) -> int:
    """Replays the TFRecord of `PredictionLog` in the version's directory; returns how many records it held.

    Args:
        servable: the version.
        threads: records replayed at once. The first run of a signature is single-threaded work for the most part.

    Raises:
        ServingError: a record failed, cannot be read or is of a kind that is not supported, or there are over 1,000.
    """
    path = f"{servable.path}/{REQUESTS_FILE}"
    if not tf.io.gfile.exists(path):
        return 0
    try:
        records = list(tf.data.TFRecordDataset(path).take(MAX_RECORDS + 1).as_numpy_iterator())
        if len(records) > MAX_RECORDS:
            raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")
        with ThreadPoolExecutor(threads) as executor:
            for _ in executor.map(lambda record: _replay(servable, record, path), records):
                pass
    except tf.errors.DataLossError as error:
        raise ServingError(
            grpc.StatusCode.DATA_LOSS, f"{error.message}. Please verify your warmup data is in TFRecord format."
        ) from error
    except tf.errors.OpError as error:
        raise from_op_error(error) from error
    return len(records)


def _replay(servable: Servable, record: bytes, path: str) -> None:
    try:
        log = prediction_log_pb2.PredictionLog.FromString(record)
    except DecodeError as error:
        raise invalid_argument(f"Failed to parse warmup record: {record!r} from {path}") from error
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        predict(servable, log.predict_log.request, timeout_ms=None)
    elif kind in _REPLAYS:
        _REPLAYS[kind](servable, getattr(log, kind).request, None)
    elif kind is not None:
        raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {kind}")
