"""Bad input at the command line: one line that names where, exit status 2, nothing left behind."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from twotower.pipeline import cli

SPEC = """
name: tiny
interactions: {path: purchases.csv, user: user, item: item, time: time}
split: {test_from: 2024-01-15}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "spec.yaml").write_text(SPEC)
    days = pd.date_range("2024-01-01", "2024-01-31", freq="D").strftime("%Y-%m-%d")
    rows = [(f"u{u}", f"i{(u + d) % 5}", day) for u in range(4) for d, day in enumerate(days)]
    pd.DataFrame(rows, columns=["user", "item", "time"]).to_csv(tmp_path / "purchases.csv", index=False)
    return tmp_path


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail with status 2; its one line of error."""
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert line.startswith("twotower: ")
    return line


def run(shop: Path) -> list[str]:
    return ["run", "--spec", str(shop / "spec.yaml"), "--out", str(shop / "out")]


def test_no_spec(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "spec.yaml").unlink()
    assert "spec.yaml: cannot read the spec" in fails(capsys, *run(shop))


def test_misspelt_key(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "spec.yaml").write_text(SPEC + "retreival: {}\n")
    line = fails(capsys, *run(shop))
    assert "unknown key 'retreival': did you mean 'retrieval'?" in line
    assert not (shop / "out").exists()


def test_missing_table(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "purchases.csv").unlink()
    assert "purchases.csv: no such file; expected a CSV" in fails(capsys, *run(shop))
    assert not (shop / "out").exists()


def test_a_path_for_a_table_that_the_spec_does_not_have(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a path was given for 'items', which the spec does not have" in fails(capsys, *run(shop), "--items", "x.csv")


def test_out_is_a_file(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "out").write_text("")
    assert "cannot be a folder to write to" in fails(capsys, *run(shop))


def test_asking_without_a_run(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "recommend", "--user", "1", "--out", str(shop / "out"))
    assert "no complete run is there" in line


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("2024-01-05", "5th of January"), "column 'time': found '5th of January', expected a time like"),
        (("2024-01-05", "2999-01-01"), "column 'time': found '2999-01-01', expected a time that is not in the future"),
        (("u1,", ","), "column 'user': found None, expected an id that is not empty"),
        (("time", "when"), "no column 'time'"),
        (("2024-01-0", "2024-02-0"), None),
    ],
)
def test_bad_rows_end_the_run_in_one_line(
    shop: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], expected: str | None
) -> None:
    table = shop / "purchases.csv"
    table.write_text(table.read_text().replace(*change))
    if expected is None:
        # Every purchase moves behind the split.
        table.write_text(table.read_text().replace("2024-01-", "2024-03-"))
        expected = "no interaction is left before 2024-01-15"
    assert expected in fails(capsys, *run(shop))
    left = [path for path in (shop / "out" / "pipeline").rglob("*") if path.is_file()]
    assert left == []
    assert not list((shop / "out" / "serving").rglob("*.pb"))


def test_a_full_disk_is_said_in_one_line(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shop / "out"
    out.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(out)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        line = fails(capsys, *run(shop))
        assert f"{out}: the disk is full" in line
        assert not (out / "lookup").exists()
    finally:
        subprocess.run(["umount", "--lazy", str(out)], check=True)


def test_serve_without_a_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--model-dir", str(tmp_path), "--port", "0"]) != 0
    assert str(tmp_path) in capsys.readouterr().err


def test_serve_on_a_port_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "1").mkdir()
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--model-dir", str(tmp_path), "--port", str(port)]) != 0
    assert str(port) in capsys.readouterr().err


def test_every_command_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    commands = "run", "refresh", "serve", "recommend", "similar", "skew", "canary", "promote", "rollback", "doctor"
    for command in commands:
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert re.search(rf"\nexamples?:\n  twotower {command}\b", capsys.readouterr().out)
