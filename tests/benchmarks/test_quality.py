"""benchmarks/quality.py: reads folders that others publish, and its numbers are those of a plain computation."""

import json
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


def run(data: Path, results: Path, model: str = "popularity", *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(BENCHMARKS / "quality.py"),
        model,
        "--data",
        str(data),
        "--results",
        str(results),
        *more,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five users: item 0 is bought by four of them, 1 by three, 2 by two, 3 by one."""
    folder = tmp_path_factory.mktemp("pairs")
    train = ["0 0 1", "1 0 1 2", "2 0 1", "3 0 2 3", "4"]
    (folder / "train.txt").write_text("\n".join(train) + "\n", encoding="utf-8")
    with lzma.open(folder / "test.txt.xz", "wt") as file:
        file.write("0 2\n1 3\n4 3 4\n")
    return folder


def test_popularity_by_hand(pairs: Path, tmp_path: Path) -> None:
    finished = run(pairs, tmp_path, "popularity", "--cutoff", "2", "--seeds", "1", "2")
    assert finished.returncode == 0, finished.stderr
    [row] = json.loads((tmp_path / f"{pairs.name}.json").read_text())
    [runs] = row["metrics"].values()
    # Lists of two without what is known: user 0 gets 2, 3; user 1 gets 3, 4; user 4 gets 0, 1.
    first, perfect = 1.0, 1 + 1 / np.log2(3)
    assert perfect > first
    for found in runs:
        assert found["Recall@2"] == pytest.approx((1 + 1 + 0) / 3)
        assert found["NDCG@2"] == pytest.approx((first + first + 0) / 3)
        assert found["coverage"] == pytest.approx(1.0)
    assert row["seeds"] == [1, 2]
    assert "| **popularity** | 0.6667" in (tmp_path / f"{pairs.name}.md").read_text()


def test_a_pair_in_both_files_fails(pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "leak"
    folder.mkdir()
    (folder / "train.txt").write_text("0 0 1\n1 0 2\n", encoding="utf-8")
    (folder / "test.txt").write_text("0 2\n1 2\n", encoding="utf-8")
    finished = run(folder, tmp_path)
    assert finished.returncode != 0
    assert "1 of 2 pairs are in train too, the first is user 1 with item 2" in finished.stderr


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "found none of train.txt"),
        ({"train.txt": "0 1\n"}, "test.txt: no such file; expected it, or test.txt.xz"),
        ({"train.txt": "0 1\n1 x\n", "test.txt": "0 2\n"}, "train.txt:2: found '1 x', expected whole numbers"),
        ({"train.txt": "0\n", "test.txt": "0 2\n"}, "train.txt: no pair of user and item"),
    ],
)
def test_bad_folders(tmp_path: Path, files: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from cases import read_case

    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=message):
        read_case(tmp_path, None, 20)


def test_the_shipped_configurations_are_models(monkeypatch: pytest.MonkeyPatch, pairs: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import yaml
    from cases import read_case

    case = read_case(pairs, None, 2)
    files = sorted((BENCHMARKS / "quality" / "models").glob("*.yaml"))
    assert files
    for file in files:
        case.spec(yaml.safe_load(file.read_text(encoding="utf-8")), seed=1)
