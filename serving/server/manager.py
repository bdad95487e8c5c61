"""All the models of a server: which one a request means, and the thread that watches for new versions."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tensorflow_serving.apis import model_pb2

from twotower.serving.server.errors import StartupError, invalid_argument, not_found
from twotower.serving.server.lifecycle import ModelLifecycle, VersionStatus
from twotower.serving.server.servable import Servable

LOGGER = logging.getLogger(__name__)


class ModelManager:
    """Finds the servable of a request and keeps the models' versions current.

    Args:
        poll_wait_seconds: seconds between looks for new versions; 0 looks only at the start.
    """

    def __init__(self, poll_wait_seconds: float) -> None:
        self._poll_wait_seconds = poll_wait_seconds
        self._models: Mapping[str, ModelLifecycle] = {}
        self._wake = threading.Event()
        self._stopping = False
        self._poller = threading.Thread(target=self._poll, name="version-poller")

    def wake(self) -> None:
        """Makes the watching thread look now: a version has drained."""
        self._wake.set()

    def start(self, models: Mapping[str, ModelLifecycle]) -> None:
        """Loads a first version of every model, then watches for new ones; returns once all are available.

        Raises:
            StartupError: a model has no version that could be loaded; the message says why.
        """
        self._models = models
        for model in models.values():
            model.refresh()
            if not model.available_versions():
                failures = "; ".join(
                    f"version {status.version}: {' '.join(status.error.message.split())}"
                    for status in model.statuses()
                    if status.error is not None
                )
                raise StartupError(f'model "{model.name}": nothing under {model.base_path} could be loaded: {failures}')
        if self._poll_wait_seconds > 0:
            self._poller.start()

    @contextmanager
    def acquire(self, spec: model_pb2.ModelSpec) -> Iterator[Servable]:
        """The servable that a request's model spec means, held while the context lasts.

        Raises:
            ServingError: the spec names no model, an unknown model, an unavailable version, or a label.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        if spec.WhichOneof("version_choice") == "version_label":
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        version = spec.version.value if spec.HasField("version") else None
        model = self._models.get(spec.name)
        if model is None:
            wanted = f"Latest({spec.name})" if version is None else f"Specific({spec.name}, {version})"
            raise not_found(f"Servable not found for request: {wanted}")
        with model.acquire(version) as servable:
            yield servable

    def statuses(self, spec: model_pb2.ModelSpec) -> list[VersionStatus]:
        """The statuses of the model's versions, newest first, or of the one version that the spec gives.

        Raises:
            ServingError: NOT_FOUND, no such model or version.
        """
        model = self._models.get(spec.name)
        statuses = [] if model is None else model.statuses()
        if spec.HasField("version"):
            number = spec.version.value
            statuses = [status for status in statuses if status.version == number]
            if not statuses:
                raise not_found(f"Could not find version {number} of model {spec.name}")
        if not statuses:
            raise not_found(f"Could not find any versions of model {spec.name}")
        return statuses

    def close(self) -> None:
        """Stops watching (a load under way is finished first) and frees every model."""
        self._stopping = True
        self._wake.set()
        if self._poller.is_alive():
            self._poller.join()
        for model in self._models.values():
            model.close()

    def _poll(self) -> None:
        while True:
            self._wake.wait(self._poll_wait_seconds)
            self._wake.clear()
            if self._stopping:
                return
            for model in self._models.values():
                try:
                    model.refresh()
                except Exception:
                    LOGGER.exception("%s: looking for new versions failed; trying again", model.name)
