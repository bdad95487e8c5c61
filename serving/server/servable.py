"""One loaded version of a model: a SavedModel in a TensorFlow session, its signatures ready to run.

A `tf.compat.v1.Session` gives TensorFlow Serving's runtime messages word for word. The session is run through the
same C binding that `Session.run` uses, because `Session.run` casts what it is fed to the placeholder's dtype and checks
shapes itself, which would hide or reword the runtime's own errors (and takes 170 us a call against 44 us).
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session

from twotower.serving.server.errors import ServingError, from_op_error, invalid_argument, not_found
from twotower.serving.server.pace import Operations, Pace

LOGGER = logging.getLogger(__name__)

SERVE_TAG = "serve"


@dataclass(frozen=True)
class SessionOptions:
    """How versions are loaded.

    Args:
        tags: of the meta graph.
        intra_op_threads: threads of one operation; 0 leaves it to TensorFlow.
        inter_op_threads: operations of a request run at once; 0 leaves it to TensorFlow.
    """

    tags: tuple[str, ...] = (SERVE_TAG,)
    intra_op_threads: int = 0
    inter_op_threads: int = 0

    def config(self) -> config_pb2.ConfigProto:
        """The same as a session takes it."""
        return config_pb2.ConfigProto(
            intra_op_parallelism_threads=self.intra_op_threads, inter_op_parallelism_threads=self.inter_op_threads
        )


class Signature:
    """A signature with all that does not depend on a request looked up.

    Attributes:
        name: its key.
        definition: as it was saved.
        inputs, outputs: alias to the tensor's handle in the runtime; None where the graph has no such tensor.
        aliases: of the outputs, in the order in which they are returned.
        pace: what its runs took so far.
    """

    def __init__(self, name: str, definition: meta_graph_pb2.SignatureDef, graph: tf.Graph, bounded: bool) -> None:
        self.name = name
        self.definition = definition
        self.inputs = {alias: _handle(graph, definition.inputs[alias].name) for alias in sorted(definition.inputs)}
        self.outputs = {alias: _handle(graph, definition.outputs[alias].name) for alias in sorted(definition.outputs)}
        self.aliases = list(self.outputs)
        self.input_names = frozenset(self.inputs)
        self.default_names = frozenset(definition.defaults)
        self.pace = Pace(bounded)


class Servable:
    """A SavedModel version that can be run by any number of threads at once.

    Args:
        name: the model's name.
        version: its version number.
        path: the version's directory.
        options: how to load it.

    Attributes:
        signatures: by name.

    Raises:
        ServingError: the directory holds no SavedModel that this TensorFlow can load.
    """

    def __init__(self, name: str, version: int, path: str, options: SessionOptions | None = None) -> None:
        options = options or SessionOptions()
        self.name = name
        self.version = version
        self.path = path
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph, config=options.config())
        try:
            meta_graph = self._load(options.tags)
            self._session._extend_graph()
        except BaseException:
            self._session.close()
            raise
        self._graph.finalize()
        operations = Operations(meta_graph.graph_def)
        self.signatures: Mapping[str, Signature] = {
            key: Signature(key, definition, self._graph, not operations.may_take_any_time(definition))
            for key, definition in meta_graph.signature_def.items()
        }

    def _load(self, tags: tuple[str, ...]) -> meta_graph_pb2.MetaGraphDef:
        if not any(tf.io.gfile.exists(f"{self.path}/saved_model.{suffix}") for suffix in ("pb", "pbtxt")):
            raise not_found(f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {self.path}")
        try:
            with self._graph.as_default():
                return tf.compat.v1.saved_model.load(self._session, list(tags), self.path)
        except tf.errors.OpError as error:
            raise from_op_error(error) from error
        except OSError as error:
            raise ServingError(grpc.StatusCode.DATA_LOSS, str(error)) from error
        except RuntimeError as error:  # no meta graph with the tag
            raise not_found(str(error)) from error

    def run(
        self,
        signature: Signature,
        inputs: Mapping[str, npt.NDArray[Any]],
        aliases: Sequence[str],
        timeout_ms: int | None,
    ) -> list[npt.NDArray[Any]]:
        """Runs a signature.

        Args:
            signature: one of this servable's.
            inputs: alias to value; dtypes and shapes are the runtime's to judge.
            aliases: of the outputs to return.
            timeout_ms: milliseconds until DEADLINE_EXCEEDED; None waits for ever. A signature that is known to be
                quick is run to its end.

        Raises:
            ServingError: with the runtime's status and message.
        """
        feeds = {_known(signature.inputs, signature.definition.inputs, alias): array for alias, array in inputs.items()}
        fetches = [_known(signature.outputs, signature.definition.outputs, alias) for alias in aliases]
        pace = signature.pace
        if pace.quick:
            began = time.thread_time()
            outputs = self._run(feeds, fetches, _IN_THIS_THREAD)
            pace.took(time.thread_time() - began)
            return outputs
        if pace.begin_probe():
            began = time.perf_counter()
            try:
                return self._run(feeds, fetches, _IN_THIS_THREAD)
            finally:
                pace.end_probe(time.perf_counter() - began)
        if timeout_ms is None:
            return self._run(feeds, fetches, None)
        options = pywrap_tf_session.TF_NewBufferFromString(
            config_pb2.RunOptions(timeout_in_ms=timeout_ms).SerializeToString()
        )
        try:
            return self._run(feeds, fetches, options)
        finally:
            pywrap_tf_session.TF_DeleteBuffer(options)

    def joined(self, parts: Sequence[tuple[Signature, Sequence[str]]]) -> Signature:
        """A signature that computes outputs of several others in one run, each under ``place/alias``.

        Args:
            parts: signatures with the same inputs, and the aliases wanted of each.
        """
        definition = meta_graph_pb2.SignatureDef(inputs=parts[0][0].definition.inputs)
        for place, (signature, aliases) in enumerate(parts):
            for alias in aliases:
                definition.outputs[f"{place}/{alias}"].CopyFrom(signature.definition.outputs[alias])
        return Signature("joined", definition, self._graph, bounded=False)

    def _run(self, feeds: dict[Any, npt.NDArray[Any]], fetches: list[Any], options: Any) -> list[npt.NDArray[Any]]:
        try:
            outputs: list[npt.NDArray[Any]] = pywrap_tf_session.TF_SessionRun_wrapper(
                self._session._session, options, feeds, fetches, [], None
            )
        except tf.errors.OpError as error:
            raise from_op_error(error) from error
        return outputs

    def close(self) -> None:
        """Frees the session's memory; runs under way are cancelled."""
        self._session.close()


# Runs the graph in the calling thread: no other thread has to be woken up, which costs more than a small graph itself.
_IN_THIS_THREAD = pywrap_tf_session.TF_NewBufferFromString(
    config_pb2.RunOptions(inter_op_thread_pool=-1).SerializeToString()
)


def _handle(graph: tf.Graph, name: str) -> Any:
    try:
        return graph.get_tensor_by_name(name)._as_tf_output()
    except (KeyError, ValueError):  # an operation rather than a tensor, as in `__saved_model_init_op`
        return None


def _known(handles: Mapping[str, Any], infos: Mapping[str, meta_graph_pb2.TensorInfo], alias: str) -> Any:
    handle = handles[alias]
    if handle is None:
        raise invalid_argument(
            f"Tensor {infos[alias].name}, specified in either feed_devices or fetch_devices was not found in the Graph"
        )
    return handle


def register_scann_ops() -> None:
    """Makes ScaNN's ops known to this process if the `scann` package is installed and fits this TensorFlow."""
    try:
        import scann.scann_ops  # noqa: F401
    except (ImportError, tf.errors.OpError) as error:
        LOGGER.warning("SavedModels with ScaNN ops cannot be loaded: %s", error)
