"""The life of one model's versions: found, loaded and warmed up, served, drained, unloaded.

As in TensorFlow Serving's availability-preserving policy, a version that is no longer wanted is given up only once a
wanted one is available. `refresh` and `close` are called by one thread at a time; everything else by any.
"""

import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import grpc
from tensorflow_serving.apis import get_model_status_pb2

from twotower.serving.server.errors import ServingError, servable_not_found, unrecognized_label
from twotower.serving.server.servable import Servable, SessionOptions
from twotower.serving.server.versions import Fingerprint, VersionPolicy, fingerprint, version_directories
from twotower.serving.server.warmup import warm_up

LOGGER = logging.getLogger(__name__)

State = get_model_status_pb2.ModelVersionStatus


@dataclass(frozen=True)
class VersionStatus:
    """What GetModelStatus says of a version: a `ModelVersionStatus.State` and, where it failed, why."""

    version: int
    state: int
    error: ServingError | None


@dataclass
class _Version:
    number: int
    path: str
    state: int = State.START
    error: ServingError | None = None
    servable: Servable | None = None
    in_flight: int = 0
    failures: int = 0
    failed_at: float = 0.0
    failed_files: Fingerprint | None = None
    last_seen_files: Fingerprint | None = None


@dataclass(frozen=True)
class LoadOptions:
    """How versions are loaded.

    Args:
        session: of the graph.
        max_retries: how often a version that failed is tried again while its files stay the same.
        retry_seconds: seconds between those tries. Changed files are tried again as soon as they settle.
        labels_may_wait: whether a label may name a version that is not available.
    """

    session: SessionOptions = field(default_factory=SessionOptions)
    max_retries: int = 5
    retry_seconds: float = 60.0
    labels_may_wait: bool = False


class Held:
    """A servable that stays loaded until it is released."""

    __slots__ = ("_entry", "_model", "servable")

    def __init__(self, model: "ModelLifecycle", entry: _Version, servable: Servable) -> None:
        self._model = model
        self._entry = entry
        self.servable = servable

    def __enter__(self) -> Servable:
        return self.servable

    def __exit__(self, *_: object) -> None:
        self._model.release(self._entry)


class ModelLifecycle:
    """The versions of one model, of which those that its policy wants are served.

    Args:
        name: the model's name.
        base_path: the directory that holds its versions.
        policy: which versions are served; by default the newest.
        options: how they are loaded.
        on_drained: called when the last request on a version that is being given up has ended.
        on_loaded: called after each load with the version's directory, the seconds it took, and the error if it failed.
    """

    def __init__(
        self,
        name: str,
        base_path: str,
        policy: VersionPolicy | None = None,
        options: LoadOptions | None = None,
        on_drained: Callable[[], None] = lambda: None,
        on_loaded: Callable[[str, float, ServingError | None], None] = lambda *_: None,
    ) -> None:
        self.name = name
        self.base_path = base_path
        self.policy = policy or VersionPolicy()
        self._options = options or LoadOptions()
        self._on_drained = on_drained
        self._on_loaded = on_loaded
        self._lock = threading.Lock()
        self._versions: dict[int, _Version] = {}
        self._available: dict[int, _Version] = {}
        self._latest: int | None = None
        self._labels: dict[str, int] = {}
        self._base_path_readable = True
        self._reported_missing: frozenset[int] = frozenset()

    def acquire(self, version: int | None = None, label: str | None = None) -> Held:
        """The newest available servable, the one of that version, or the one that the label names.

        Raises:
            ServingError: NOT_FOUND, no such version is available; INVALID_ARGUMENT, no such label.
        """
        with self._lock:
            if label is not None:
                version = self.labelled(label)
            number = self._latest if version is None else version
            entry = None if number is None else self._available.get(number)
            if entry is None or entry.servable is None:
                raise servable_not_found(self.name, version)
            entry.in_flight += 1
            return Held(self, entry, entry.servable)

    def release(self, entry: _Version) -> None:
        """Ends what `acquire` began."""
        with self._lock:
            entry.in_flight -= 1
            drained = entry.state == State.UNLOADING and entry.in_flight == 0
        if drained:
            self._on_drained()

    def labelled(self, label: str) -> int:
        """The version that a label names.

        Raises:
            ServingError: INVALID_ARGUMENT, there is no such label.
        """
        version = self._labels.get(label)
        if version is None:
            raise unrecognized_label(label)
        return version

    def label(self, labels: Mapping[str, int]) -> None:
        """Replaces the labels.

        Raises:
            ServingError: FAILED_PRECONDITION, a label names a version that is not available; the labels stay.
        """
        with self._lock:
            for label, number in labels.items():
                if number not in self._available and not self._options.labels_may_wait:
                    raise ServingError(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        f"Request to assign label {label} to version {number} of model {self.name}, which is not"
                        " currently available for inference",
                    )
            self._labels = dict(labels)

    def statuses(self) -> list[VersionStatus]:
        """Every version ever seen, newest first."""
        with self._lock:
            entries = sorted(self._versions.values(), key=lambda entry: entry.number, reverse=True)
            return [VersionStatus(entry.number, entry.state, entry.error) for entry in entries]

    def available_versions(self) -> list[int]:
        """The versions that can be asked for now, oldest first."""
        with self._lock:
            return sorted(self._available)

    def refresh(self) -> None:
        """Brings what is served in line with what lies under the base path; returns when loads are done.

        A base path that cannot be read changes nothing. A version that fails to load is reported and tried again later;
        meanwhile the versions already available stay, and where there is none the next older one is tried.
        """
        try:
            directories = version_directories(self.base_path)
        except OSError as error:
            if self._base_path_readable:
                LOGGER.error("%s: cannot read %s, keeping what is loaded: %s", self.name, self.base_path, error)
            self._base_path_readable = False
            return
        self._base_path_readable = True
        wanted = self.policy.wanted(directories)
        self._report_missing(directories)
        for number in wanted:
            self._load_if_due(number, directories[number])
        if self.policy.kind == "latest":
            for number in sorted(directories, reverse=True):
                if not self._available and number not in wanted:
                    self._load_if_due(number, directories[number])
        if not wanted or any(number in self._available for number in wanted):
            self._retire_all_but(wanted)
        self.unload_drained()

    def close(self) -> None:
        """Gives up every version at once and frees them; requests still running are cancelled."""
        with self._lock:
            entries = [entry for entry in self._versions.values() if entry.servable is not None]
            self._available.clear()
            self._latest = None
        for entry in entries:
            self._unload(entry)

    def _report_missing(self, present: Mapping[int, str]) -> None:
        missing = self.policy.numbers - present.keys()
        if missing and missing != self._reported_missing:
            numbers = ", ".join(map(str, sorted(missing)))
            LOGGER.warning("%s: wanted but not under %s: version %s", self.name, self.base_path, numbers)
        self._reported_missing = frozenset(missing)

    def retire(self) -> None:
        """Gives up every version: no new request gets one, those under way are finished."""
        self._retire_all_but([])
        self.unload_drained()

    def is_empty(self) -> bool:
        """Whether nothing is loaded."""
        with self._lock:
            return all(entry.servable is None for entry in self._versions.values())

    def _load_if_due(self, number: int, path: str) -> None:
        with self._lock:
            entry = self._versions.setdefault(number, _Version(number, path))
            if entry.state not in (State.START, State.END) or not self._due(entry):
                return
            entry.state, entry.error, entry.path = State.LOADING, None, path
        files = fingerprint(path)
        began = time.monotonic()
        try:
            servable, records = self._load(number, path)
        except ServingError as error:
            LOGGER.error("%s version %d failed to load: %s", self.name, number, error.message)
            self._on_loaded(path, time.monotonic() - began, error)
            with self._lock:
                entry.state, entry.error = State.END, error
                entry.failures = entry.failures + 1 if files == entry.failed_files else 1
                entry.failed_at = time.monotonic()
                entry.failed_files = entry.last_seen_files = files
            return
        LOGGER.info(
            "loaded %s version %d in %.2f s (%d warm-up requests)",
            self.name,
            number,
            time.monotonic() - began,
            records,
        )
        with self._lock:
            entry.servable, entry.state, entry.failures = servable, State.AVAILABLE, 0
            self._available[number] = entry
            self._latest = max(self._available)
        self._on_loaded(path, time.monotonic() - began, None)

    def _due(self, entry: _Version) -> bool:
        """Whether to load a version now: at first sight, when wanted back, when changed, or for another try."""
        if entry.failures == 0:
            return True
        files = fingerprint(entry.path)
        settled = files == entry.last_seen_files
        entry.last_seen_files = files
        if files != entry.failed_files:
            return settled
        waited = time.monotonic() - entry.failed_at
        return entry.failures <= self._options.max_retries and waited >= self._options.retry_seconds

    def _load(self, number: int, path: str) -> tuple[Servable, int]:
        try:
            servable = Servable(self.name, number, path, self._options.session)
            try:
                # While nothing is served there is nobody to leave a core to.
                return servable, warm_up(servable, threads=1 if self._available else os.cpu_count() or 1)
            except BaseException:
                servable.close()
                raise
        except ServingError:
            raise
        except MemoryError as error:
            raise ServingError(grpc.StatusCode.RESOURCE_EXHAUSTED, "out of memory while loading") from error
        except Exception as error:
            # Whatever is wrong with a new version must not stop the server that still has the old one.
            raise ServingError(grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}") from error

    def _retire_all_but(self, wanted: list[int]) -> None:
        with self._lock:
            for number in [number for number in self._available if number not in wanted]:
                self._available.pop(number).state = State.UNLOADING
            self._latest = max(self._available, default=None)

    def unload_drained(self) -> None:
        """Frees the versions that were given up and that no request uses any more."""
        with self._lock:
            entries = [
                entry for entry in self._versions.values() if entry.state == State.UNLOADING and entry.in_flight == 0
            ]
        for entry in entries:
            self._unload(entry)
        if entries:
            gc.collect()  # a TensorFlow graph is full of cycles, and a model's worth of memory hangs on it

    def _unload(self, entry: _Version) -> None:
        servable, entry.servable = entry.servable, None
        if servable is not None:
            servable.close()
        with self._lock:
            entry.state = State.END
        LOGGER.info("unloaded %s version %d", self.name, entry.number)
