"""Beam's engines: Ingest, statistics and Transform with several worker processes make what one process makes."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tiny_shop
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import create_runner
from distributed import LocalCluster
from test_ingest import EVENTS, Result, Shop, event

from twotower.features.errors import InputError
from twotower.features.spec import Spec
from twotower.pipeline import beam_options, cli, ingest
from twotower.pipeline.beam_options import IN_MEMORY, beam_args

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ROOTS = ("features", "models", "pipeline", "serving")
WORKERS = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster


def engine(name: str, request: pytest.FixtureRequest) -> list[str]:
    if name == "dask":
        return beam_args("dask", [f"--dask_client_address={request.getfixturevalue('cluster').scheduler_address}"])
    return beam_args("direct", [f"--direct_num_workers={WORKERS}"])


def spec_of(folder: Path, more: list[dict[str, Any]]) -> Spec:
    """A shop with two files of purchases, so that both workers have one to read, and tables to join."""
    shop = Shop(folder)
    shop.write("events1.csv", EVENTS)
    shop.write("events2.csv", more)
    shop.write("users.csv", [{"id": f"u{n}", "town": "Ulm" if n % 2 else ""} for n in range(30)])
    shop.write("items.csv", [{"id": item, "price": "2.5", "title": "Tea"} for item in "abcd"])
    return shop.spec(users=shop.users(), items=shop.items())


MORE = [event(f"u{n % 30}", "abcd"[n % 4], 7 * n - 500) for n in range(150)]


def run(spec: Spec, out: Path, args: list[str]) -> Result:
    out.mkdir()
    counts = ingest.run(spec, out / "examples", out / "lookup", beam.Pipeline(options=PipelineOptions(args)))
    return Result(counts, out)


@pytest.mark.parametrize("name", ["direct", "dask"])
def test_ingest_with_two_worker_processes_is_that_of_one_process(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    args = engine(name, request)
    spec = spec_of(tmp_path, MORE)
    one, several = run(spec, tmp_path / "one", list(IN_MEMORY)), run(spec, tmp_path / "several", args)
    assert several.counts == one.counts
    for split in ingest.SPLITS:
        assert several.split(split) == one.split(split)
    for table in ("histories", "items"):
        assert several.lookup(table) == one.lookup(table)
    # More than one worker wrote: else the comparison says nothing about several.
    assert len(list((several.out / "lookup").glob("histories*"))) > 1
    assert len(list((one.out / "lookup").glob("histories*"))) == 1


def test_a_fault_in_a_worker_process_is_one_line_and_nothing_stays(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    args = engine("dask", request)
    spec = spec_of(tmp_path, [event("u1", "a", 0) | {"quantity": "[while]"}])
    with pytest.raises(InputError) as caught:
        run(spec, tmp_path / "out", args)
    assert str(caught.value) == f"{tmp_path}/events2.csv: row 1, column 'quantity': found '[while]', expected a number"
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def transformed(shop: tiny_shop.Shop) -> dict[str, list[dict[str, Any]]]:
    """The examples of each split, in their order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for split in ("items", "train", "eval"):
        file = str(shop.examples / f"Split-{split}" / "part-00000.gz")
        found[split] = []
        for record in tf.data.TFRecordDataset(file, "GZIP").as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            lists = {key: getattr(value, value.WhichOneof("kind")).value for key, value in features.items()}
            found[split].append({key: np.array(values) for key, values in lists.items()})
    return found


@pytest.mark.parametrize("name", ["direct", "dask"])
def test_transform_with_two_worker_processes_is_that_of_one_process(
    name: str, shop: tiny_shop.Shop, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    several = tiny_shop.build(tmp_path, engine(name, request))
    assets = Path("transform_fn", "assets")
    assert list((shop.graph / assets).iterdir())
    for file in (shop.graph / assets).iterdir():
        assert (several.graph / assets / file.name).read_bytes() == file.read_bytes()
    one, other = transformed(shop), transformed(several)
    for split, examples in one.items():
        for example, same in zip(examples, other[split], strict=True):
            assert example.keys() == same.keys()
            for key, values in example.items():
                if values.dtype.kind == "f":
                    np.testing.assert_allclose(same[key], values, rtol=1e-5, atol=1e-6)
                else:
                    assert same[key].tolist() == values.tolist()


def test_the_package_of_setup_file_has_all_that_a_worker_imports(tmp_path: Path) -> None:
    # What Beam does with --setup_file, here and on the worker.
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree)
    for name in ROOTS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    pack = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(pack, cwd=tree, check=True, capture_output=True)
    (package,) = tmp_path.glob("*.tar.gz")
    install = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation"]
    target = tmp_path / "installed"
    subprocess.run([*install, "--target", str(target), str(package)], check=True, capture_output=True)
    for root in ROOTS:
        for file in (ROOT / root).rglob("*.py"):
            if (file.parent / "__init__.py").exists() and "client" not in file.parts:
                assert (target / "twotower" / file.relative_to(ROOT)).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("runner", "flags", "expected"),
    [
        (None, (), list(IN_MEMORY)),
        ("direct", ["--direct_num_workers=1"], ["--direct_num_workers=1", "--direct_running_mode=in_memory"]),
        ("direct", ["--direct_num_workers=0"], ["--direct_num_workers=0", "--direct_running_mode=multi_processing"]),
        ("direct", ["--direct_running_mode", "multi_threading"], ["--direct_running_mode", "multi_threading"]),
        (
            "flink",
            ["--flink_master=a:1", "--checkpointingInterval=9"],
            ["--flink_master=a:1", "--checkpointingInterval=9"],
        ),
        ("spark", ["--job_endpoint=a:1", "--spark_version=3"], ["--job_endpoint=a:1", "--spark_version=3"]),
        ("prism", ["--prism_location=/bin/prism"], ["--prism_location=/bin/prism"]),
        ("portable", ["--job_endpoint=embed"], ["--job_endpoint=embed"]),
        ("dataflow", ["--project=shop", "--job_name=a"], ["--project=shop", "--job_name=a"]),
    ],
)
def test_options_reach_beam(runner: str | None, flags: list[str], expected: list[str]) -> None:
    args = beam_args(runner, flags)
    if runner is not None:
        name = args.pop(0).removeprefix("--runner=")
        assert name.lower() == f"{runner}runner"
        assert type(create_runner(name)).__name__ in (name, "SwitchingDirectRunner")
    assert args == expected


@pytest.mark.parametrize(
    ("runner", "flags", "message"),
    [
        ("flonk", [], "--beam-runner: found 'flonk': did you mean 'flink'?"),
        (
            "mapreduce",
            [],
            "--beam-runner: found 'mapreduce': expected one of direct, dask, portable, flink, spark, prism, dataflow",
        ),
        (None, ["--a=1"], "--a: an option of Beam, but --beam-runner does not say whose"),
        (
            "direct",
            ["--direct_num_wrkers=2"],
            "--direct_num_wrkers: not an option of Beam that --beam-runner direct takes; "
            "did you mean '--direct_num_workers'?",
        ),
        (
            "flink",
            ["--flink_mastr=a"],
            "--flink_mastr: not an option of Beam that --beam-runner flink takes; did you mean '--flink_master'?",
        ),
        (
            "spark",
            ["--flink_master=a"],
            "--flink_master: an option of --beam-runner flink, which --beam-runner spark ignores",
        ),
        ("direct", ["--direct_num_workers=two"], "argument --direct_num_workers: invalid int value: 'two'"),
        ("direct", ["--runner=x"], "--runner: give the runner's name to --beam-runner, not among its options"),
    ],
)
def test_bad_options_are_one_line(runner: str | None, flags: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        beam_args(runner, flags)
    assert str(caught.value) == message


def test_the_commands_of_the_page_pass() -> None:
    text = (ROOT / "docs" / "beam.md").read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if line.startswith("twotower run")]
    for line in lines:
        options = cli.parser().parse_args(shlex.split(line)[1:])
        assert beam_args(options.beam_runner, options.beam_flags)
    assert {shlex.split(line)[5] for line in lines} == {*beam_options.ENGINES}
