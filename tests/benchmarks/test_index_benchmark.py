"""benchmarks/index.py: the settings it tries, what it compares, and the files it writes."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from twotower.serving.index.probing import Probing


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import index

    return index


def test_settings_are_around_the_tuned_one_and_hold_k_rows(benchmark: Any) -> None:
    tried = dict(benchmark.settings(Probing((100, 1_000), (16, 40), 3, 50)))
    assert list(tried) == [3, 4, 6, 10, 16, 26, 41, 50]
    assert tried[26] == Probing((100, 1_000), (26, 40), 3, 50)


def test_the_fastest_setting_of_enough_recall_is_compared(benchmark: Any) -> None:
    def point(kind: str, found: float, p50: float) -> Any:
        return benchmark.Point(kind, 4, False, found, p50, 2 * p50, 1.0, 1_000.0, 1.0, 1.0)

    points = [point("exact", 1.0, 10.0), point("scann", 0.94, 0.1), point("scann", 0.96, 0.25)]
    assert benchmark.compared([*points, point("scann", 0.97, 0.5), point("portable", 0.94, 0.2)]).splitlines()[2:] == [
        "- scann at recall 0.960, exact at 1.000: p50 0.25 and 10.00 ms, 0.025 of it"
    ]


def test_a_folder_that_is_no_run_is_refused(benchmark: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no pushed servable is there, expected the folder of a finished"):
        benchmark.of_run(tmp_path, 10, 0)


def test_the_files_hold_every_setting(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", f"index.py --items 500 --dim 4 --queries 8 --k 5 --out {tmp_path}".split())
    benchmark.main()
    found = json.loads((tmp_path / "index.json").read_text())
    # So few rows are searched exactly by every kind.
    assert [(p["kind"], p["leaves"], p["recall"]) for p in found["points"]] == [
        (kind, None, 1.0) for kind in ("exact", "scann", "portable")
    ]
    assert (tmp_path / "index.md").read_text().count("\n| ") == 5
    assert (tmp_path / "index.svg").read_text().startswith("<?xml")
