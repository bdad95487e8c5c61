"""Which versions of a model lie under its base path, and which of them are wanted.

Every directory with an integer name is a version.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_VERSION = re.compile(r"-?[0-9]+")
_INT64 = range(-(2**63), 2**63)

Fingerprint = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class VersionPolicy:
    """Which versions are to be served.

    Args:
        kind: the newest few, all, or the named ones.
        count: of the newest.
        numbers: the named ones.
    """

    kind: Literal["latest", "all", "specific"] = "latest"
    count: int = 1
    numbers: frozenset[int] = frozenset()

    def wanted(self, present: Iterable[int]) -> list[int]:
        """Those of the versions present that are to be served, newest first."""
        newest_first = sorted(present, reverse=True)
        if self.kind == "all":
            return newest_first
        if self.kind == "specific":
            return [number for number in newest_first if number in self.numbers]
        return newest_first[: self.count]


def version_directories(base_path: str) -> dict[int, str]:
    """Version number to directory, for each directory directly under `base_path` that has an integer name.

    A directory with any other name is not a version yet: a publisher writes under such a name and then renames.

    Args:
        base_path: a local directory, or one on a file system that TensorFlow knows, such as `gs://bucket/model`.

    Raises:
        OSError: the base path cannot be read.
    """
    found: dict[int, str] = {}
    for name in sorted(_directory_names(base_path)):
        if _VERSION.fullmatch(name) and int(name) in _INT64:
            found[int(name)] = f"{base_path.rstrip('/')}/{name}"
    return found


def is_remote(path: str) -> bool:
    """Whether the path is on one of TensorFlow's own file systems rather than a local one."""
    return "://" in path


def fingerprint(directory: str) -> Fingerprint:
    """Name, size in bytes and change time in nanoseconds of each file: it differs after any change to the files.

    Empty for a remote directory, where listing every file at every poll would cost too much.
    """
    if is_remote(directory):
        return ()
    files = []
    for path in Path(directory).rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:  # deleted between the listing and here
            continue
        files.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(sorted(files))


def _directory_names(base_path: str) -> list[str]:
    if not is_remote(base_path):
        with os.scandir(base_path) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    # Imported here so that a wrong local path is reported without waiting for TensorFlow.
    import tensorflow as tf

    try:
        names = [name.rstrip("/") for name in tf.io.gfile.listdir(base_path)]
    except tf.errors.OpError as error:
        raise OSError(error.message) from error
    return [name for name in names if tf.io.gfile.isdir(f"{base_path.rstrip('/')}/{name}")]
