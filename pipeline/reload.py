"""Hands a model config to running servers, in the two steps that labels need.

TensorFlow Serving gives labels to loaded versions alone. So the new version is loaded first, beside those that are, and
the labels move once it is AVAILABLE; only then does the version that nobody names any more go.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from twotower.features.errors import InputError
from twotower.pipeline.model_config import load, model_config

#: Loading a version and answering its warm-up records may take minutes.
RELOAD_SECONDS = 300.0
STATUS_SECONDS = 10.0
POLL_SECONDS = 0.2
_AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE
_FAILED = get_model_status_pb2.ModelVersionStatus.END


@dataclass(frozen=True)
class VersionState:
    """A version as a server reports it."""

    server: str
    version: int
    state: str


def reload(
    servers: Sequence[str],
    path: Path,
    model: str,
    old: model_server_config_pb2.ModelServerConfig,
    new: model_server_config_pb2.ModelServerConfig,
) -> list[VersionState]:
    """Bring every server from `old` to `new`, and return the model's states afterwards.

    Raises:
        InputError: a server refuses, does not answer, or cannot load a version; those that were told are told `old`.
    """
    both = model_server_config_pb2.ModelServerConfig()
    both.CopyFrom(old)
    wanted = sorted(model_config(path, new, model).model_version_policy.specific.versions)
    changing = model_config(path, both, model)
    kept = sorted(set(changing.version_labels.values()))
    load(changing, sorted({*kept, *wanted}))
    with _Stubs(servers) as stubs:
        told: list[_Server] = []
        try:
            for server in stubs.servers:
                told.append(server)
                server.reload(both)
                server.wait_for(model, wanted)
            for server in stubs.servers:
                server.reload(new)
            return [state for server in stubs.servers for state in server.states(model)]
        except InputError:
            for server in told:
                server.restore(old)
            raise


class _Stubs:
    def __init__(self, servers: Sequence[str]) -> None:
        self._channels = [grpc.insecure_channel(server) for server in servers]
        self.servers = [
            _Server(server, model_service_pb2_grpc.ModelServiceStub(channel))
            for server, channel in zip(servers, self._channels, strict=True)
        ]

    def __enter__(self) -> _Stubs:
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            channel.close()


class _Server:
    def __init__(self, name: str, stub: Any) -> None:
        self._name = name
        self._stub = stub

    def reload(self, config: model_server_config_pb2.ModelServerConfig) -> None:
        request = model_management_pb2.ReloadConfigRequest(config=config)
        status = self._call("HandleReloadConfigRequest", request, RELOAD_SECONDS).status
        if status.error_code:
            raise InputError(f"{self._name}: refused the config: {status.error_message}")

    def restore(self, config: model_server_config_pb2.ModelServerConfig) -> None:
        with suppress(InputError):  # the error that led here is the one to show
            self.reload(config)

    def wait_for(self, model: str, versions: Sequence[int]) -> None:
        """Wait until all of the versions are AVAILABLE."""
        deadline = time.monotonic() + RELOAD_SECONDS
        while True:
            found = {one.version: one for one in self._statuses(model)}
            states = {version: found[version].state if version in found else None for version in versions}
            for version, state in states.items():
                if state == _FAILED:
                    message = found[version].status.error_message
                    raise InputError(f"{self._name}: version {version} of {model!r} did not load: {message}")
            waiting = [version for version, state in states.items() if state != _AVAILABLE]
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise InputError(f"{self._name}: version {waiting[0]} of {model!r} was not available in time")
            time.sleep(POLL_SECONDS)

    def states(self, model: str) -> list[VersionState]:
        names = get_model_status_pb2.ModelVersionStatus.State
        return [VersionState(self._name, one.version, names.Name(one.state)) for one in self._statuses(model)]

    def _statuses(self, model: str) -> list[Any]:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=model_pb2.ModelSpec(name=model))
        return list(self._call("GetModelStatus", request, STATUS_SECONDS).model_version_status)

    def _call(self, method: str, request: Any, timeout: float) -> Any:
        try:
            return getattr(self._stub, method)(request, timeout=timeout)
        except grpc.RpcError as error:
            raise InputError(f"{self._name}: {method}: {error.code().name}: {error.details()}") from None
