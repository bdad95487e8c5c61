"""All the models of a server: which one a request means, and the thread that keeps them as they should be."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tensorflow_serving.apis import model_pb2

from twotower.serving.server.errors import (
    ServingError,
    invalid_argument,
    not_found,
    servable_not_found,
    unknown,
    unrecognized_label,
)
from twotower.serving.server.lifecycle import Held, LoadOptions, ModelLifecycle, VersionStatus
from twotower.serving.server.versions import VersionPolicy

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelConfig:
    """A model that is to be served.

    Args:
        name: the name that requests give.
        base_path: the directory of its versions.
        policy: which of them are served.
        labels: label to version.
    """

    name: str
    base_path: str
    policy: VersionPolicy = field(default_factory=VersionPolicy)
    labels: Mapping[str, int] = field(default_factory=dict)


class ModelManager:
    """Finds the servable of a request, and keeps the models' versions current.

    Args:
        poll_wait_seconds: seconds between looks for new versions; 0 looks only when the configuration changes.
        options: how versions are loaded.
        on_loaded: as of `ModelLifecycle`.
    """

    def __init__(
        self,
        poll_wait_seconds: float,
        options: LoadOptions | None = None,
        on_loaded: Callable[[str, float, ServingError | None], None] = lambda *_: None,
    ) -> None:
        self._poll_wait_seconds = poll_wait_seconds
        self._options = options
        self._on_loaded = on_loaded
        self._models: Mapping[str, ModelLifecycle] = {}
        self._leaving: list[ModelLifecycle] = []
        # Held by whoever loads and unloads: the watching thread, or one that brings a new configuration.
        self._changing = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._watcher = threading.Thread(target=self._watch, name="version-watcher")

    def start(self) -> None:
        """Begins to watch for new versions."""
        self._watcher.start()

    def configure(self, configs: Iterable[ModelConfig]) -> None:
        """Serves these models and no others; returns when each has a version available, or cannot have one.

        A model whose base path changed is served from the old one until the new one has a version.

        Raises:
            ServingError: a model has no version that could be loaded, or a label names a version that is not available.
                Everything else of the new configuration is in force then.
        """
        configs = list(configs)
        problems: list[ServingError] = []
        with self._changing:
            models = {}
            for config in configs:
                model = self._configured(config)
                models[config.name] = model if model.available_versions() else self._models.get(config.name, model)
                if not model.available_versions():
                    problems.append(unknown(_why_nothing_is_served(model)))
                    if models[config.name] is not model:
                        self._leaving.append(model)
            replaced = [model for name, model in self._models.items() if models.get(name) is not model]
            self._models = models
            self._leaving += replaced
            self._forget_left()
            for config in configs:
                try:
                    models[config.name].label(config.labels)
                except ServingError as error:
                    problems.append(error)
        if problems:
            raise ServingError(problems[0].code, "; ".join(problem.message for problem in problems))

    def _configured(self, config: ModelConfig) -> ModelLifecycle:
        model = self._models.get(config.name)
        if model is None or model.base_path != config.base_path:
            model = ModelLifecycle(
                config.name,
                config.base_path,
                config.policy,
                self._options,
                on_drained=self._wake.set,
                on_loaded=self._on_loaded,
            )
        model.policy = config.policy
        model.refresh()
        return model

    def names(self) -> list[str]:
        """The models that are served."""
        return list(self._models)

    def available_versions(self, name: str) -> list[int]:
        """The versions of a model that can be asked for now, oldest first."""
        return self._models[name].available_versions()

    def acquire(self, spec: model_pb2.ModelSpec) -> Held:
        """The servable that a request's model spec means, to be released.

        Raises:
            ServingError: the spec names no model, an unknown model, an unavailable version, or an unknown label.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        model = self._models.get(spec.name)
        choice = spec.WhichOneof("version_choice")
        if model is None:
            if choice == "version_label":
                raise unrecognized_label(spec.version_label)
            raise servable_not_found(spec.name, spec.version.value if choice == "version" else None)
        if choice is None:
            return model.acquire()
        if choice == "version":
            return model.acquire(version=spec.version.value)
        return model.acquire(label=spec.version_label)

    def statuses(self, spec: model_pb2.ModelSpec) -> list[VersionStatus]:
        """The statuses of the model's versions, newest first, or of the one that the spec gives.

        Raises:
            ServingError: NOT_FOUND, no such model or version; INVALID_ARGUMENT, no such label.
        """
        model = self._models.get(spec.name)
        choice = spec.WhichOneof("version_choice")
        statuses = [] if model is None else model.statuses()
        if choice is not None:
            number = spec.version.value
            if choice == "version_label":
                if model is None:
                    raise unrecognized_label(spec.version_label)
                number = model.labelled(spec.version_label)
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
        if self._watcher.is_alive():
            self._watcher.join()
        for model in [*self._models.values(), *self._leaving]:
            model.close()

    def _watch(self) -> None:
        while True:
            self._wake.wait(self._poll_wait_seconds or None)
            drained = self._wake.is_set()
            self._wake.clear()
            if self._stopping:
                return
            with self._changing:
                for model in self._models.values():
                    try:
                        if drained and not self._poll_wait_seconds:
                            model.unload_drained()
                        else:
                            model.refresh()
                    except Exception:
                        LOGGER.exception("%s: looking for new versions failed; trying again", model.name)
                self._forget_left()

    def _forget_left(self) -> None:
        for model in self._leaving:
            model.retire()
        self._leaving = [model for model in self._leaving if not model.is_empty()]


def _why_nothing_is_served(model: ModelLifecycle) -> str:
    failures = "; ".join(
        f"version {status.version}: {' '.join(status.error.message.split())}"
        for status in model.statuses()
        if status.error is not None
    )
    return f'model "{model.name}": nothing under {model.base_path} could be loaded: {failures or "no version found"}'
