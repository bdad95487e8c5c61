import numpy as np
import pytest

from twotower.models import bootstrap
from twotower.models.bootstrap import mean_interval


def test_agrees_with_the_normal_approximation() -> None:
    values = np.random.default_rng(0).normal(0.3, 0.2, 400)
    low, high = mean_interval(values, resamples=4000, seed=1)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_equal_values_have_no_width() -> None:
    assert mean_interval(np.full(7, 0.25), resamples=50, seed=3) == (0.25, 0.25)


def test_is_the_same_for_a_seed_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(10.0)
    first = mean_interval(values, resamples=101, seed=5)
    assert mean_interval(values, resamples=101, seed=5) == first
    assert mean_interval(values, resamples=101, seed=6) != first
    monkeypatch.setattr(bootstrap, "BLOCK", 70)
    assert mean_interval(values, resamples=101, seed=5) == first


@pytest.mark.parametrize(("values", "message"), [([], "found 0"), ([0.5, np.nan], "all finite")])
def test_nothing_to_measure(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_interval(np.array(values), resamples=10, seed=0)
