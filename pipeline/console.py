"""What a person sees of a run: our lines on the terminal, everybody else's in a log file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

PROGRESS = "twotower.progress"


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(f"    {record.getMessage()}", highlight=False, markup=False)


@contextmanager
def quiet(log: Path) -> Iterator[Console]:
    """Send everything that is printed to ``log``, C++ libraries included, but for the console that it yields.

    The log lines of the ``twotower.progress`` logger appear on that console, indented under their step.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    width = None if os.isatty(1) else 120
    with log.open("a", encoding="utf-8") as file, os.fdopen(os.dup(saved[0]), "w", encoding="utf-8") as terminal:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        console = Console(file=terminal, width=width)
        handler = _ConsoleHandler(console)
        logger = logging.getLogger(PROGRESS)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield console
        finally:
            logger.removeHandler(handler)
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), saved, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
