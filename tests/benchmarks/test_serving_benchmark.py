"""The serving benchmark in short: load without an error, flat memory, and a page of curves."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

GROWTH_MB = 10


@pytest.fixture(scope="module")
def serving() -> Any:
    """The benchmark's module, by its file: the project has a folder of the same name."""
    path = Path(__file__).parents[2] / "benchmarks" / "serving.py"
    spec = importlib.util.spec_from_file_location("serving_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its data classes look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def base(serving: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("trivial")
    module = serving.Trivial()
    tf.saved_model.save(module, str(base / "1"), signatures=module.multiply)
    return base


@pytest.fixture(scope="module")
def request_file(serving: Any, base: Path) -> Path:
    path: Path = serving.write_request(base.parent / "trivial.bin", {"x": np.ones(3, np.float32)})
    return path


def test_a_short_soak_has_no_error_and_flat_memory(serving: Any, base: Path, request_file: Path) -> None:
    found = serving.soak(base, request_file, 8.0, 100.0)
    assert found["requests"] == 800
    assert found["not OK"] == 0
    assert found["memory MB, last tenth"] - found["memory MB, second tenth"] < GROWTH_MB


def test_a_change_of_versions_under_load_fails_nobody(serving: Any, base: Path, request_file: Path) -> None:
    found = serving.swap("trivial", base, request_file, 100.0, 5.0)
    assert found["requests"] == 1500
    assert found["failed"] == 0


def test_the_page_shows_curves_and_tables(serving: Any) -> None:
    figures = {"requests a second": 9, "p50 ms": 1.0, "p99 ms": 2.0, "not OK": 0}
    timeline = [[0.0, 1.0], [1.0, 2.0]]
    text = serving.page(
        {
            "about": "2 cores",
            "throughput": [{"server": name, "clients": 1, **figures} for name in ("ours", "rival")],
            "overhead": [{"model": "<b>", "ratio of p50": 1.1}],
            "swap": [{"model": "trivial", "failed": 0, "timeline": timeline}],
            "overload": [{"clients": 1, "OK": 1}],
            "soak": {"requests": 2, "timeline": timeline},
        }
    )
    assert text.count("<svg") == 5
    assert "&lt;b&gt;" in text
    assert "<h2>Overload</h2>" in text
    assert "timeline" not in text
