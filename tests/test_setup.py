"""bootstrap.sh: what it says, in one line, on a machine that lacks something, and when it does nothing.

Each test runs a copy of it, for the version set that the tests themselves run on, with a PATH of its own making;
nothing is downloaded. And what the two lock files must have.
"""

import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PY = f"3.{sys.version_info.minor}"
LOCKS = {"3.11": "requirements.lock", "3.12": "requirements-py312.lock"}
VENV = {"3.11": ".venv", "3.12": ".venv-3.12"}[PY]
KEYED = (LOCKS[PY], "setup.py", "serving/client/setup.py", "bootstrap.sh")
TOOLS = ("awk", "cat", "dirname", "flock", "mv", "rm", "sh", "sha256sum", "sort", "tail", "uname")
COMPILERS = ("gcc", "g++")


class Machine:
    """A copy of the project's set-up files, and a PATH with the basic tools alone."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self.path = folder / "bin"
        for name in KEYED:
            (self.project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.project / name)
        self.path.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, f"this test needs {tool}"
            (self.path / tool).symlink_to(found)

    def program(self, name: str, *lines: str) -> Path:
        """Put a shell script on the PATH."""
        file = self.path / name
        file.unlink(missing_ok=True)
        file.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
        file.chmod(0o755)
        return file

    def python(self, name: str = f"python{PY}", **modules: str) -> Path:
        """Put this Python on the PATH, with C headers, and with the given source in place of some modules."""
        shadows = self.project.parent / "shadows"
        include = self.project.parent / "include"
        shadows.mkdir()
        include.mkdir()
        (include / "Python.h").touch()
        headers = f"""
import sysconfig
get_path = sysconfig.get_path
sysconfig.get_path = lambda name, *args, **kw: {str(include)!r} if name == "include" else get_path(name, *args, **kw)
"""
        for module, source in {"sitecustomize": headers, **modules}.items():
            (shadows / f"{module}.py").write_text(source, encoding="utf-8")
        return self.program(name, f'PYTHONPATH="{shadows}" exec "{sys.executable}" "$@"')

    def compilers(self) -> None:
        for name in COMPILERS:
            self.program(name, "exit 0")

    def bootstrap(self, **environment: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.path), "HOME": str(self.project.parent), "PY": PY, **environment}
        command = [str(self.path / "sh"), "bootstrap.sh"]
        return subprocess.run(command, cwd=self.project, env=environment, capture_output=True, text=True, check=False)

    def complaint(self, **environment: str) -> str:
        """The one line that a set-up that cannot be leaves, before anything was made."""
        done = self.bootstrap(**environment)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("bootstrap: found ")
        assert done.stderr.count("\n") == 1
        assert not (self.project / VENV).exists()
        return done.stderr.removeprefix("bootstrap: found ").strip()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.program("uname", "case $1 in -s) echo Linux ;; -m) echo x86_64 ;; esac")
    machine.program("getconf", "echo glibc 2.41")
    return machine


def test_no_python(machine: Machine) -> None:
    assert machine.complaint().startswith(f"no Python, expected Python {PY} (")


def test_other_pythons_are_all_named(machine: Machine) -> None:
    older = machine.program("python3", "echo 3.9.18")
    newer = machine.program("python", "echo 3.14.4")
    assert machine.complaint().startswith(f"Python 3.9.18 ({older}), Python 3.14.4 ({newer}), expected Python {PY} (")


def test_a_python_that_does_not_start_is_passed_over(machine: Machine) -> None:
    # pyenv's shims are like this for a version that was not chosen.
    machine.program(f"python{PY}", "echo not installed >&2", "exit 127")
    older = machine.program("python3", "echo 3.9.18")
    assert machine.complaint().startswith(f"Python 3.9.18 ({older}), expected Python {PY} (")


def test_the_chosen_python_is_the_only_candidate(machine: Machine) -> None:
    machine.python()
    older = machine.program("other", "echo 3.10.2")
    assert machine.complaint(PYTHON=str(older)).startswith(f"Python 3.10.2 ({older}), expected Python {PY} (")
    assert machine.complaint(PYTHON="/no/python").startswith(f"no Python at /no/python, expected Python {PY} (")


@pytest.mark.parametrize("name", [f"python{PY}", "python3", "python"])
def test_no_compiler_for_a_python_under_any_of_its_names(machine: Machine, name: str) -> None:
    machine.python(name)
    complaint = machine.complaint()
    assert complaint.startswith("no C compiler, expected g++, ")
    assert "apt-get install g++ python3-dev" in complaint


def test_no_cplusplus_compiler(machine: Machine) -> None:
    machine.python()
    machine.program("gcc", "exit 0")
    assert machine.complaint().startswith("no C++ compiler, expected g++, ")


def test_no_ensurepip(machine: Machine) -> None:
    python = machine.python(ensurepip="raise ImportError")
    complaint = machine.complaint()
    assert complaint.startswith(f"{python} without its venv and ensurepip modules, expected both ")
    assert f"apt-get install python{PY}-venv" in complaint


def test_no_python_headers(machine: Machine, tmp_path: Path) -> None:
    python = machine.python()
    (tmp_path / "include" / "Python.h").unlink()
    complaint = machine.complaint()
    assert complaint.startswith(f"{python} without its C headers, expected Python.h, ")
    assert f"apt-get install python{PY}-dev" in complaint


def test_another_machine(machine: Machine) -> None:
    machine.program("uname", "case $1 in -s) echo Darwin ;; -m) echo arm64 ;; esac")
    assert machine.complaint().startswith("Darwin arm64, expected Linux x86_64, ")


def test_the_current_set_on_an_older_system(machine: Machine) -> None:
    machine.program("getconf", "echo glibc 2.36")
    complaint = machine.complaint(PY="3.12")
    assert complaint.startswith("glibc 2.36, expected glibc 2.39 or later, which the wheels for Python 3.12 need (")
    assert machine.complaint(PY="3.11").startswith("no Python, expected Python 3.11 (")


def test_the_current_set_on_newer_systems(machine: Machine) -> None:
    for version in ("2.39", "2.100"):
        machine.program("getconf", f"echo glibc {version}")
        assert machine.complaint(PY="3.12").startswith("no Python, expected Python 3.12 (")


def test_another_c_library(machine: Machine) -> None:
    machine.program("getconf", "exit 1")
    assert machine.complaint().startswith("another C library than glibc, expected glibc 2.")


def test_a_python_without_a_lock_file(machine: Machine) -> None:
    assert machine.complaint(PY="3.13").startswith("PY=3.13, expected 3.11 or 3.12, ")


def set_up(machine: Machine) -> Path:
    """The trace of a finished set-up; returns the stamp."""
    binaries = machine.project / VENV / "bin"
    binaries.mkdir(parents=True)
    machine.program("python-of-venv", f"echo Python {PY}.2").rename(binaries / "python")
    keyed = f"{machine.project}\nPython {PY}.2\n".encode() + b"".join(
        (machine.project / name).read_bytes() for name in KEYED
    )
    stamp = machine.project / VENV / ".bootstrap-stamp"
    stamp.write_text(f"{hashlib.sha256(keyed).hexdigest()}  -\n", encoding="ascii")
    return stamp


def test_a_finished_set_up_is_left_alone(machine: Machine) -> None:
    set_up(machine)
    done = machine.bootstrap()  # there is no Python on the PATH, and none is needed
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", KEYED)
def test_a_changed_file_undoes_the_set_up(machine: Machine, name: str) -> None:
    set_up(machine)
    with (machine.project / name).open("a", encoding="utf-8") as file:
        file.write("\n")
    assert f"expected Python {PY}" in machine.bootstrap().stderr


def test_another_python_in_the_environment_undoes_the_set_up(machine: Machine) -> None:
    set_up(machine)
    machine.program("newer", f"echo Python {PY}.9").rename(machine.project / VENV / "bin" / "python")
    assert f"expected Python {PY}" in machine.bootstrap().stderr


def test_a_moved_project_is_set_up_again(machine: Machine, tmp_path: Path) -> None:
    set_up(machine)
    machine.project = machine.project.rename(tmp_path / "moved")
    assert f"expected Python {PY}" in machine.bootstrap().stderr


def test_a_set_up_that_breaks_off_leaves_no_stamp_and_begins_anew(machine: Machine) -> None:
    python = machine.python()
    machine.compilers()
    # Without uv in the lock, pip has nothing to install, and the call of uv fails.
    (machine.project / LOCKS[PY]).write_text("", encoding="utf-8")
    environment = {"PYTHON": str(python), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    assert machine.bootstrap(**environment).returncode != 0
    left = machine.project / VENV / "left-over"
    assert (machine.project / VENV / "bin" / "python").exists()
    assert not (machine.project / VENV / ".bootstrap-stamp").exists()
    left.touch()
    assert machine.bootstrap(**environment).returncode != 0
    assert not left.exists()


def test_a_stale_stamp_goes_before_anything_is_installed(machine: Machine) -> None:
    python = machine.python()
    machine.compilers()
    stamp = set_up(machine)
    machine.program("broken", f"case $1 in -m) exit 3 ;; *) echo Python {PY}.4 ;; esac").rename(
        machine.project / VENV / "bin" / "python"
    )
    assert machine.bootstrap(PYTHON=str(python)).returncode == 3
    assert not stamp.exists()


def locked(py: str) -> dict[str, str]:
    """The versions of that Python's lock file, by canonical name."""
    text = (ROOT / LOCKS[py]).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)(?:\[.*\])?==(\S+)", text, flags=re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS.values())
def test_a_lock_has_hashes_and_names_no_registry(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"https?:|--(extra-)?index-url|--find-links|@ file", text)
    packages = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(packages) > 200
    assert [package for package in packages if not re.match(r"\S+==\S+ (; .* )?\\\n    --hash=sha256:", package)] == []


@pytest.mark.parametrize("py", LOCKS)
def test_a_lock_is_in_step_with_the_declared_requirements(py: str) -> None:
    versions = locked(py)
    declared = importlib.metadata.distribution("twotower").requires
    assert declared is not None
    of_this_python = [
        one
        for one in map(Requirement, declared)
        if one.name != "twotower-client"
        and (
            one.marker is None
            or any(
                one.marker.evaluate({"python_version": py, "extra": extra}) for extra in ("", "demo", "setup", "test")
            )
        )
    ]
    assert len(of_this_python) > 30
    unmet = {
        str(one): versions.get(canonicalize_name(one.name))
        for one in of_this_python
        if not one.specifier.contains(versions.get(canonicalize_name(one.name), "0"))
    }
    assert unmet == {}


def test_the_overrides_are_what_the_current_lock_has() -> None:
    text = (ROOT / "overrides-py312.txt").read_text(encoding="utf-8")
    overrides = [Requirement(line) for line in text.splitlines() if not line.startswith("#")]
    assert overrides
    assert [one for one in overrides if not one.specifier.contains(locked("3.12")[one.name])] == []


def test_this_environment_is_the_locked_one() -> None:
    found = {
        canonicalize_name(one.name): one.version
        for one in importlib.metadata.distributions(path=[sysconfig.get_path("purelib")])
    }
    versions = locked(PY)
    assert {name: found.get(canonicalize_name(name)) for name in versions} == versions
