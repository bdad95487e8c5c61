"""The model's signatures, read from GetModelMetadata once per model version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic

import grpc

from . import wire_pb2 as wire
from .errors import InvalidRequestError, ServerError
from .steps import Alone, Plan, Rpc
from .versions import VersionChoice, model_spec

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
    """The signatures of the version that answered last, for each choice of a version.

    The last few versions are kept, because replies alternate between two while servers behind one name are updated.
    Threads share it: dictionaries change in single operations, and only one plan at a time asks the server.
    """

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._by_version: dict[int, ModelSignatures] = {}
        self._current: dict[VersionChoice, ModelSignatures] = {}

    def get(self, choice: VersionChoice, deadline: float) -> Plan[ModelSignatures]:
        """Return the signatures of the chosen version, asking the server if they are not known.

        Args:
            choice: which version the request is for.
            deadline: on the clock of ``time.monotonic``.
        """
        known = self._current.get(choice)
        return known if known is not None else (yield from self.refresh(choice, deadline, seen=None))

    def refresh(self, choice: VersionChoice, deadline: float, seen: ModelSignatures | None) -> Plan[ModelSignatures]:
        """Ask the server again, unless another call has replaced `seen` since."""
        fresh: ModelSignatures = yield Alone(
            self._fetch(choice, deadline, seen),
            max(deadline - monotonic(), 0),
            f"waiting for the metadata of model {self._model_name!r}",
        )
        return fresh

    def answered(self, choice: VersionChoice, version: int) -> None:
        """Note which version a reply came from; one that is not known is asked for before the next call."""
        current = self._current.get(choice)
        if current is not None and current.version != version:
            known = self._by_version.get(version)
            if known is not None:
                self._current[choice] = known
            else:
                self._current.pop(choice, None)

    def _fetch(self, choice: VersionChoice, deadline: float, seen: ModelSignatures | None) -> Plan[ModelSignatures]:
        current = self._current.get(choice)
        if current is not None and current is not seen:
            return current
        request = wire.GetModelMetadataRequest(model_spec=model_spec(self._model_name, choice), metadata_field=[_FIELD])
        reply: wire.GetModelMetadataResponse = yield Rpc("GetModelMetadata", request, max(deadline - monotonic(), 0))
        if _FIELD not in reply.metadata:
            raise ServerError(grpc.StatusCode.INTERNAL, f"the metadata of model {self._model_name!r} lacks {_FIELD!r}")
        signatures = wire.SignatureDefMap.FromString(reply.metadata[_FIELD].value)
        inputs = {
            name: {key: _input_spec(info) for key, info in definition.inputs.items()}
            for name, definition in signatures.signature_def.items()
        }
        fresh = ModelSignatures(self._model_name, reply.model_spec.version.value, inputs)
        self._by_version.pop(fresh.version, None)
        self._by_version[fresh.version] = fresh
        while len(self._by_version) > _KEPT_VERSIONS:
            oldest = next(iter(self._by_version))
            del self._by_version[oldest]
            self._current.pop(oldest, None)  # or those who ask by number would keep every version there ever was
        self._current[choice] = fresh
        return fresh


def _input_spec(info: wire.TensorInfo) -> InputSpec:
    shape = info.tensor_shape
    return InputSpec(int(info.dtype), None if shape.unknown_rank else tuple(dim.size for dim in shape.dim))
