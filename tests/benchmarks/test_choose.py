"""benchmarks/choose.py: what it holds out comes from train alone, and training does not see it."""

import dataclasses
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twotower.features.timelines import Timelines

DAY = 86_400
N_USERS, N_ITEMS = 6, 40


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import choose

    return choose


@pytest.fixture
def ncf(choose: Any, tmp_path: Path) -> Any:
    """Each user bought ten items, user u those from u on; the test is the item after them."""
    with lzma.open(tmp_path / "train.pairs.tsv.xz", "wt") as file:
        file.writelines(f"{user}\t{user + n}\n" for user in range(N_USERS) for n in range(10))
    test = "".join(f"{user}\t{user + 10}\t5\t0\n" for user in range(N_USERS))
    (tmp_path / "ml-1m.test.rating").write_text(test, encoding="utf-8")
    with lzma.open(tmp_path / "test.negative.xz", "wt") as file:
        file.writelines(f"({user},{user + 10})\t37\t38\t39\n" for user in range(N_USERS))
    return choose.read_case(tmp_path, None, 10)


def pairs(timelines: Timelines) -> set[tuple[int, int]]:
    return set(zip(timelines.users.tolist(), timelines.items.tolist(), strict=True))


def test_a_fifth_is_held_out_and_one_of_it_ranked_among_the_unseen(choose: Any, ncf: Any) -> None:
    case = choose.held_out(ncf, 10, seed=1)
    train, held = pairs(case.train.history), pairs(case.ranked[0].protocol.labels)
    assert len(held) == N_USERS * 2
    assert train | held == pairs(ncf.train.history)
    assert not train & held
    sampled = case.sampled
    assert set(zip(sampled.users.tolist(), sampled.positives.tolist(), strict=True)) <= held
    assert sampled.users.tolist() == list(range(N_USERS))
    assert sampled.negatives.shape == (N_USERS, 3)
    for user, row in enumerate(sampled.negatives):
        assert len(set(row.tolist())) == 3
        assert not {(user, item) for item in row.tolist()} & (train | held)


def test_the_last_days_before_the_split_are_held_out(choose: Any, ncf: Any) -> None:
    days = np.array([1, 60, 70, 71, 99])
    history = Timelines.from_events(
        np.zeros(5, np.int64), np.arange(5, dtype=np.int32), days * DAY, np.ones(5, np.float32), N_USERS
    )
    run = dataclasses.replace(
        ncf,
        train=dataclasses.replace(ncf.train, history=history),
        base={**ncf.base, "split": {"test_from": "1970-04-11"}},  # day 100
    )
    case = choose.held_out_in_time(run, 30)
    assert case.spec({}, 1).split.start == 70 * DAY
    assert case.train.history.items.tolist() == [0, 1]
    for each in case.ranked:
        assert each.protocol.train.items.tolist() == [0, 1]
        assert each.protocol.labels.items.tolist() == case.asked.labels.items.tolist() == [2, 3, 4]
