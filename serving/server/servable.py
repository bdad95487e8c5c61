"""One loaded version of a model: a SavedModel in a TensorFlow session.

A `tf.compat.v1.Session` gives TensorFlow Serving's runtime messages word for word. The session is run through the
same C binding that `Session.run` uses, because `Session.run` casts what it is fed to the placeholder's dtype and checks
shapes itself, which would hide or reword the runtime's own errors (and takes 170 us a call against 44 us).
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session

from twotower.serving.server.errors import ServingError, from_op_error, invalid_argument, not_found

LOGGER = logging.getLogger(__name__)

SERVE_TAG = "serve"


class Servable:
    """A SavedModel version that can be run by any number of threads at once.

    Args:
        name: the model's name.
        version: its version number.
        path: the version's directory.

    Raises:
        ServingError: the directory holds no SavedModel that this TensorFlow can load.
    """

    def __init__(self, name: str, version: int, path: str) -> None:
        self.name = name
        self.version = version
        self.path = path
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph)
        try:
            meta_graph = self._load()
            self._session._extend_graph()
        except BaseException:
            self._session.close()
            raise
        self._graph.finalize()
        self.signatures: Mapping[str, meta_graph_pb2.SignatureDef] = dict(meta_graph.signature_def)
        self._tensors = self._find_tensors()

    def _load(self) -> meta_graph_pb2.MetaGraphDef:
        if not any(tf.io.gfile.exists(f"{self.path}/saved_model.{suffix}") for suffix in ("pb", "pbtxt")):
            raise not_found(f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {self.path}")
        try:
            with self._graph.as_default():
                return tf.compat.v1.saved_model.load(self._session, [SERVE_TAG], self.path)
        except tf.errors.OpError as error:
            raise from_op_error(error) from error
        except OSError as error:
            raise ServingError(grpc.StatusCode.DATA_LOSS, str(error)) from error
        except RuntimeError as error:  # no meta graph with the tag
            raise not_found(str(error)) from error

    def _find_tensors(self) -> dict[str, Any]:
        tensors = {}
        for signature in self.signatures.values():
            for info in (*signature.inputs.values(), *signature.outputs.values()):
                try:
                    tensors[info.name] = self._graph.get_tensor_by_name(info.name)._as_tf_output()
                except (KeyError, ValueError):  # an operation rather than a tensor, as in `__saved_model_init_op`
                    LOGGER.debug("%s version %d: %s is no tensor", self.name, self.version, info.name)
        return tensors

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], fetches: Sequence[str], timeout_ms: int | None
    ) -> list[npt.NDArray[Any]]:
        """Runs the graph.

        Args:
            feeds: tensor name to value; dtypes and shapes are the runtime's to judge.
            fetches: names of the tensors to return.
            timeout_ms: milliseconds until DEADLINE_EXCEEDED; None waits for ever.

        Raises:
            ServingError: with the runtime's status and message.
        """
        feed_tensors = {self._tensor(name): value for name, value in feeds.items()}
        fetch_tensors = [self._tensor(name) for name in fetches]
        options = None
        if timeout_ms is not None:
            serialized = config_pb2.RunOptions(timeout_in_ms=timeout_ms).SerializeToString()
            options = pywrap_tf_session.TF_NewBufferFromString(serialized)
        try:
            outputs: list[npt.NDArray[Any]] = pywrap_tf_session.TF_SessionRun_wrapper(
                self._session._session, options, feed_tensors, fetch_tensors, [], None
            )
        except tf.errors.OpError as error:
            raise from_op_error(error) from error
        finally:
            if options is not None:
                pywrap_tf_session.TF_DeleteBuffer(options)
        return outputs

    def _tensor(self, name: str) -> Any:
        try:
            return self._tensors[name]
        except KeyError:
            raise invalid_argument(
                f"Tensor {name}, specified in either feed_devices or fetch_devices was not found in the Graph"
            ) from None

    def close(self) -> None:
        """Frees the session's memory; runs under way are cancelled."""
        self._session.close()


def register_scann_ops() -> None:
    """Makes ScaNN's ops known to this process if the `scann` package is installed and fits this TensorFlow."""
    try:
        import scann.scann_ops  # noqa: F401
    except (ImportError, tf.errors.OpError) as error:
        LOGGER.warning("SavedModels with ScaNN ops cannot be loaded: %s", error)
