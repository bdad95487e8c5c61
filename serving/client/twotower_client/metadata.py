"""The model's signatures, read from GetModelMetadata once per model version."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic

import grpc

from . import wire_pb2 as wire
from .channel import ServingChannel
from .errors import DeadlineExceededError, InvalidRequestError, ServerError

_FIELD = "signature_def"
_KEPT_VERSIONS = 4


@dataclass(frozen=True)
class InputSpec:
    """One input of a signature.

    Attributes:
        dtype: a DataType number.
        shape: sizes, -1 for one that is not fixed; None when the rank is not known.
    """

    dtype: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class ModelSignatures:
    """The inputs of every signature of one model version."""

    model_name: str
    version: int
    inputs: Mapping[str, Mapping[str, InputSpec]]

    def signature(self, name: str) -> Mapping[str, InputSpec]:
        """Return the inputs of the signature `name`.

        Raises:
            InvalidRequestError: the model has no such signature.
        """
        if name in self.inputs:
            return self.inputs[name]
        raise InvalidRequestError(
            f"model {self.model_name!r} version {self.version} has no signature {name!r}; "
            f"it has: {', '.join(sorted(self.inputs))}",
            grpc.StatusCode.FAILED_PRECONDITION,
        )


class MetadataCache:
    """The signatures of the version that answered last; thread-safe.

    The last few versions are kept, because replies alternate between two while servers behind one name are updated.
    """

    def __init__(self, channel: ServingChannel, model_name: str) -> None:
        self._channel = channel
        self._model_name = model_name
        self._lock = threading.Lock()
        self._by_version: dict[int, ModelSignatures] = {}
        self._current: ModelSignatures | None = None

    def get(self, deadline: float) -> ModelSignatures:
        """Return the current version's signatures, asking the server if they are not known.

        Args:
            deadline: on the clock of ``time.monotonic``.
        """
        return self._current or self._fetch(deadline, seen=None)

    def refresh(self, deadline: float, seen: ModelSignatures) -> ModelSignatures:
        """Ask the server again, unless another thread has replaced `seen` since."""
        return self._fetch(deadline, seen)

    def answered(self, version: int) -> None:
        """Note which version a reply came from; one that is not known is asked for before the next call."""
        current = self._current
        if current is not None and current.version != version:
            # Without the lock: one assignment, and a reply in hand must not wait for another thread's request.
            self._current = self._by_version.get(version)

    def _fetch(self, deadline: float, seen: ModelSignatures | None) -> ModelSignatures:
        # One thread asks, the others wait for its answer, each no longer than its own deadline.
        if not self._lock.acquire(timeout=max(deadline - monotonic(), 0)):
            raise DeadlineExceededError(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"waiting for the metadata of model {self._model_name!r}"
            )
        try:
            if self._current is not None and self._current is not seen:
                return self._current
            fresh = self._request(max(deadline - monotonic(), 0))
            self._by_version.pop(fresh.version, None)
            self._by_version[fresh.version] = fresh
            while len(self._by_version) > _KEPT_VERSIONS:
                del self._by_version[next(iter(self._by_version))]
            self._current = fresh
            return fresh
        finally:
            self._lock.release()

    def _request(self, timeout: float) -> ModelSignatures:
        request = wire.GetModelMetadataRequest(
            model_spec=wire.ModelSpec(name=self._model_name), metadata_field=[_FIELD]
        )
        reply = self._channel.metadata(request, timeout)
        if _FIELD not in reply.metadata:
            raise ServerError(grpc.StatusCode.INTERNAL, f"the metadata of model {self._model_name!r} lacks {_FIELD!r}")
        signatures = wire.SignatureDefMap.FromString(reply.metadata[_FIELD].value)
        inputs = {
            name: {key: _input_spec(info) for key, info in definition.inputs.items()}
            for name, definition in signatures.signature_def.items()
        }
        return ModelSignatures(self._model_name, reply.model_spec.version.value, inputs)


def _input_spec(info: wire.TensorInfo) -> InputSpec:
    shape = info.tensor_shape
    return InputSpec(int(info.dtype), None if shape.unknown_rank else tuple(dim.size for dim in shape.dim))
