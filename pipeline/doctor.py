"""Doctor: whether this machine and its packages can run the project, checked by using them."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement
from packaging.version import Version
from rich.console import Console
from rich.table import Table

GIGABYTE = 10**9
FREE_DISK = 5 * GIGABYTE
MEMORY = 8 * GIGABYTE
SETS = {(3, 11): "default (TFX 1.16)", (3, 12): "current (TFX 1.21)"}  # by the Python that each is locked for
CURRENT_GLIBC = "2.39"
SET_UP_AGAIN = "run `make setup PY=3.12`" if sys.version_info[:2] == (3, 12) else "run `make setup`"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found, what is expected, and what to do where they differ.

    A check that is not ``required`` says what the machine lacks without failing the whole.
    """

    name: str
    ok: bool
    found: str
    expected: str
    remedy: str
    required: bool = True


def check(
    folder: Path = Path(),
    distribution: Distribution | None = None,
    free_disk: int = FREE_DISK,
    memory: int = MEMORY,
) -> list[Check]:
    """Look at Python, the version set, the packages, TensorFlow, ScaNN and the machine.

    Args:
        folder: where the pipeline is to write; its disk is the one measured.
        distribution: whose requirements the installed packages must meet; the installed ``twotower`` by default.
        free_disk: bytes that must be free in ``folder``.
        memory: bytes that the machine, or its container, must have.
    """
    return [
        _python(),
        _version_set(),
        _current_set(*platform.libc_ver()),
        *_packages(distribution),
        _tried("tf.keras", "tf-keras, for tensorflow-recommenders", _keras),
        _tried("ScaNN", "exact neighbours from its TensorFlow ops", _scann),
        _disk(folder, free_disk),
        _memory(memory),
        _compiler(),
    ]


def report(console: Console, checks: Sequence[Check] | None = None) -> int:
    """Print the checks, by default those of `check()`, as a table; returns the exit code.

    It is 1 where a required check failed, 0 otherwise.
    """
    checks = check() if checks is None else checks
    table = Table("", "Check", "Found", "Expected", "What to do", box=None, header_style="bold")
    for row in checks:
        mark = "[green]ok[/]" if row.ok else "[red]failed[/]" if row.required else "[yellow]note[/]"
        table.add_row(mark, row.name, row.found, row.expected, "" if row.ok else row.remedy)
    console.print(table)
    failed = [row for row in checks if row.required and not row.ok]
    console.print(f"{len(failed)} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks passed")
    return int(bool(failed))


def _python() -> Check:
    ok = sys.version_info[:2] in SETS
    expected = " or ".join(f"{major}.{minor}" for major, minor in SETS)
    return Check("Python", ok, platform.python_version(), expected, f"install Python 3.11, then {SET_UP_AGAIN}")


def _version_set() -> Check:
    found = SETS.get(sys.version_info[:2], "none")
    return Check("version set", found != "none", found, " or ".join(SETS.values()), SET_UP_AGAIN)


def _current_set(library: str, version: str) -> Check:
    """Whether this system's C library runs the wheels of the current version set."""
    ok = library == "glibc" and Version(version) >= Version(CURRENT_GLIBC)
    found = f"{library} {version}" if library else "no glibc"
    remedy = "`make demo PY=3.12` needs a newer system, such as Debian 13; the default set runs on this one"
    return Check("current set runs here", ok, found, f"glibc {CURRENT_GLIBC} or later", remedy, required=False)


def _packages(distribution: Distribution | None) -> Iterator[Check]:
    """One check for each package that the distribution itself requires."""
    if distribution is None:
        try:
            distribution = importlib.metadata.distribution("twotower")
        except PackageNotFoundError:
            yield Check("twotower", False, "not installed", "installed", SET_UP_AGAIN)
            return
    for requirement in map(Requirement, distribution.requires or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        expected = str(requirement.specifier).removeprefix("==") or "any version"
        try:
            found = importlib.metadata.version(requirement.name)
        except PackageNotFoundError:
            yield Check(requirement.name, False, "not installed", expected, SET_UP_AGAIN)
        else:
            ok = requirement.specifier.contains(found, prereleases=True)
            yield Check(requirement.name, ok, found, expected, SET_UP_AGAIN)


def _tried(name: str, expected: str, attempt: Callable[[], tuple[bool, str]]) -> Check:
    """The outcome of ``attempt``, or the first line of what it raised: a broken installation raises anything."""
    try:
        ok, found = attempt()
    except Exception as error:
        first_line, *_ = str(error).splitlines() or [""]
        ok, found = False, f"{type(error).__name__}: {first_line}"
    return Check(name, ok, found, expected, SET_UP_AGAIN)


def _keras() -> tuple[bool, str]:
    import tensorflow as tf
    import tf_keras

    same = tf.keras.Model is tf_keras.Model
    return same, f"tf-keras {tf_keras.__version__}" if same else f"Keras {tf.keras.__version__}"


def _scann() -> tuple[bool, str]:
    """Compare ScaNN's brute force with NumPy's dot products on 64 random unit vectors."""
    from scann.scann_ops.py import scann_ops

    vectors = np.random.default_rng(1).normal(size=(64, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries, k = vectors[:4], 5
    searcher = scann_ops.builder(vectors, k, "dot_product").score_brute_force().build()
    found, _ = searcher.search_batched(queries)
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :k]
    same = np.array_equal(found.numpy(), exact)
    return same, "exact neighbours" if same else "other neighbours than NumPy's"


def _disk(folder: Path, wanted: int) -> Check:
    """Free space where ``folder`` is, or will be made."""
    present = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(present).free
    remedy = f"free some space, or choose a folder on another disk than {present}"
    return Check("free disk", free >= wanted, _gigabytes(free), f"at least {_gigabytes(wanted)}", remedy)


def _memory(wanted: int) -> Check:
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's, as text: a number of bytes or "max"
    if limit.is_file() and (text := limit.read_text(encoding="ascii").strip()).isdigit():
        installed = min(installed, int(text))
    remedy = "use a machine or a container with more memory"
    return Check("memory", installed >= wanted, _gigabytes(installed), f"at least {_gigabytes(wanted)}", remedy)


def _compiler() -> Check:
    found = shutil.which("g++") or shutil.which("c++")
    remedy = "`apt-get install g++ python3-dev`, before `make setup` builds packages that have no wheels"
    return Check("C++ compiler", found is not None, found or "none", "g++, for the set-up", remedy, required=False)


def _gigabytes(count: int) -> str:
    return f"{count / GIGABYTE:.1f} GB"
