"""The life of one model's versions: found, loaded and warmed up, served, drained, unloaded.

The policy is TensorFlow Serving's availability-preserving one: the newest version is wanted, and an older one is
given up only once a wanted one is available. `refresh` is called by one thread; everything else by any.
"""

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from tensorflow_serving.apis import get_model_status_pb2

from twotower.serving.server.errors import ServingError, not_found
from twotower.serving.server.servable import Servable
from twotower.serving.server.versions import Fingerprint, fingerprint, version_directories
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


class ModelLifecycle:
    """All versions of one model, of which the newest that works is served.

    Args:
        name: the model's name.
        base_path: the directory that holds its versions.
        max_load_retries: how often a version that failed is tried again while its files stay the same.
        load_retry_seconds: seconds between those tries. Changed files are tried again as soon as they settle.
        on_drained: called when the last request on a version that is being given up has ended.
    """

    def __init__(
        self,
        name: str,
        base_path: str,
        max_load_retries: int = 5,
        load_retry_seconds: float = 60.0,
        on_drained: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.base_path = base_path
        self._max_load_retries = max_load_retries
        self._load_retry_seconds = load_retry_seconds
        self._on_drained = on_drained
        self._lock = threading.Lock()
        self._versions: dict[int, _Version] = {}
        self._available: dict[int, _Version] = {}
        self._base_path_readable = True

    @contextmanager
    def acquire(self, version: int | None) -> Iterator[Servable]:
        """The newest available servable, or the one of that version; it stays loaded while the context lasts.

        Raises:
            ServingError: NOT_FOUND, no such version is available.
        """
        with self._lock:
            number = max(self._available, default=None) if version is None else version
            entry = None if number is None else self._available.get(number)
            if entry is None or entry.servable is None:
                wanted = f"Latest({self.name})" if version is None else f"Specific({self.name}, {version})"
                raise not_found(f"Servable not found for request: {wanted}")
            entry.in_flight += 1
        try:
            yield entry.servable
        finally:
            with self._lock:
                entry.in_flight -= 1
                drained = entry.state == State.UNLOADING and entry.in_flight == 0
            if drained:
                self._on_drained()

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
        newest_first = sorted(directories, reverse=True)
        wanted = newest_first[:1]
        for number in newest_first:
            if number in wanted or not self._available:
                self._load_if_due(number, directories[number])
        if not wanted or any(number in self._available for number in wanted):
            self._retire_all_but(wanted)
        self._unload_drained()

    def close(self) -> None:
        """Gives up every version at once and frees them; requests still running are cancelled."""
        with self._lock:
            entries = [entry for entry in self._versions.values() if entry.servable is not None]
            self._available.clear()
        for entry in entries:
            self._unload(entry)

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
        return entry.failures <= self._max_load_retries and waited >= self._load_retry_seconds

    def _load(self, number: int, path: str) -> tuple[Servable, int]:
        try:
            servable = Servable(self.name, number, path)
            try:
                return servable, warm_up(servable)
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

    def _unload_drained(self) -> None:
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
