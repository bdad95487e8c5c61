"""What changes when a file does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def file_states(files: Iterable[Path]) -> dict[str, list[int]]:
    """Size in bytes and time of modification in nanoseconds, by path."""
    found = {}
    for file in files:
        status = file.stat()
        found[str(file)] = [status.st_size, status.st_mtime_ns]
    return found
