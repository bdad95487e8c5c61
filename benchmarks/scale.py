"""Cost of each step of ``twotower run`` against purchases, users and items: measured, fitted, and extrapolated.

    python benchmarks/scale.py --out FOLDER --largest 5000000 --at-once 2
    python benchmarks/scale.py

Eight synthetic shops: four on a line, ten times as large each, with ten purchases a user and as many items as users,
and four beside its second, in each of which something else grows alone. What a step takes is fitted as a start and so
much for each purchase, user, item and so on (``cost_fit.py``). The command writes ``benchmarks/scale/measured.json``,
``benchmarks/scale/results.md`` and ``docs/sizing.md``; the second form writes the two pages again from the first file.

What is fitted is processor time on one thread, which other work on the machine disturbs least. A shop that was measured
into FOLDER already is not measured again.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from cost_fit import OF_STEP, PRODUCTS, Drivers, Fit, bend, fit
from shop_tables import DAY, END, Purchases, Size, purchases, write
from sizing_page import ON_BEAM, UNITS, Plan, number, page, with_products
from watched_run import Cost, watch

from twotower.features.model_choices import MultiTask
from twotower.features.spec import Evaluation

HERE = Path(__file__).parent
KEPT = HERE / "scale" / "measured.json"
SEED = 1
# Days in which a user must buy to have a list that the ranker learns from.
HORIZON = 3
# What the sizing page is about: purchases, users, items.
TARGET = (100_000_000, 10_000_000, 10_000_000)
DECADES = 3
# Core seconds that a step must grow by over the line, or there is nothing to be straight.
LEAST = 1.0
MORE = "a test of 7 days, 16 times the draws and 5 snapshots"
DAY_PLAN = """\
**A day** trains retrieval on each purchase once, tests on one day and gives the ranker one snapshot and a horizon of
three days, as the measured shops do (`retrieval.events_per_epoch`, `split.test_from`, `ranking.snapshots`,
`ranking.horizon_days`)."""
DEFAULTS_PLAN = """\
**Defaults** draws the default 3 x 100,000 events, tests on a month, and gives the ranker six snapshots and a horizon of
31 days. How many users are asked, and how many lists there are, is counted in a synthetic shop of 20,000 users, up to
the most that `evaluation.max_users` and `ranking.max_lists` allow by default."""


@dataclass(frozen=True)
class Shop:
    """A shop to measure: its size, days of the test, events that training draws, and snapshots of the ranker."""

    size: Size
    test_days: int
    draws: int
    snapshots: int


@dataclass(frozen=True)
class Measured:
    """What a shop's run took, and what it is fitted on.

    Attributes:
        shop: what was run.
        asked: users of the test.
        lists: lists that the ranker learned from.
        steps: each step's cost by its name.
    """

    shop: Shop
    asked: int
    lists: int
    steps: dict[str, Cost]

    @property
    def drivers(self) -> Drivers:
        """What the cost is fitted on."""
        size = self.shop.size
        return with_products(
            {
                "purchases": size.rows,
                "users": size.users,
                "items": size.items,
                "draws": self.shop.draws,
                "asked": self.asked,
                "lists": self.lists,
            }
        )


def shops(largest: int) -> list[Shop]:
    """Three decades up to the largest, and around the second shop another for each thing that may grow alone."""
    sizes = [Size(rows, rows // 10, rows // 10) for rows in (largest // 1_000, largest // 100, largest // 10, largest)]
    line = [Shop(size, 1, size.rows // 4, 1) for size in sizes]
    second = line[1].size
    rows, users, items = second.rows, second.users, second.items
    return [
        *line,
        Shop(Size(5 * rows, users, items), 1, rows // 4, 1),
        Shop(Size(rows, 5 * users, items), 1, rows // 4, 1),
        Shop(Size(rows, users, 10 * items), 1, rows // 4, 1),
        Shop(second, 7, 4 * rows, 5),
    ]


def spec(shop: Shop) -> dict[str, Any]:
    """The spec of a shop's tables, with the defaults but for what the shop says and for single epochs."""
    category = {"kind": "category"}
    return {
        "name": "scale",
        "interactions": {
            "path": "purchases-*.parquet",
            "user": "user",
            "item": "item",
            "time": "time",
            "quantity": "pieces",
        },
        "users": {"path": "users.parquet", "id": "id", "features": {"region": category, "age": category}},
        "items": {
            "path": "items.parquet",
            "id": "id",
            "features": {
                "category": category,
                "brand": category,
                "price": {"kind": "number", "log": True},
                "title": {"kind": "text"},
            },
        },
        "context": {"hour": {"kind": "time", "part": "hour"}, "weekday": {"kind": "time", "part": "weekday"}},
        "split": {"test_from": dt.datetime.fromtimestamp(END - shop.test_days * DAY, dt.UTC).date()},
        "retrieval": {"epochs": 1, "events_per_epoch": shop.draws},
        "ranking": {"snapshots": shop.snapshots, "horizon_days": HORIZON, "epochs": 1},
    }


def measure(shop: Shop, folder: Path, minutes: float) -> Measured:
    """Make the shop's tables in a folder, run the pipeline on them, and remove both."""
    shutil.rmtree(folder, ignore_errors=True)
    write(folder, shop.size, SEED)
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec(shop)), encoding="utf-8")
    watched = watch(folder / "spec.yaml", folder / "out", 60 * minutes)
    made = purchases(shop.size, SEED)
    shutil.rmtree(folder)
    return Measured(shop, buyers(made, shop.test_days, 0), watched.lists, dict(watched.steps))


def buyers(made: Purchases, first: int, last: int) -> int:
    """Users who bought from ``first`` days before the end until ``last`` days before it."""
    inside = (made.times >= END - first * DAY) & (made.times < END - last * DAY)
    return len(np.unique(made.users[inside]))


def plans(rows: int, users: int, items: int) -> list[Plan]:
    """Shops of a size: trained on each purchase once and tested on a day, and with the defaults tested on a month."""
    small = Size(20_000 * rows // users, 20_000, 20_000 * items // users)
    made, each = purchases(small, SEED), users / small.users
    base = {"purchases": float(rows), "users": float(users), "items": float(items)}
    month = sum(buyers(made, 31 * 2 + 15 * number, 31 + 15 * number) for number in range(6))
    day = {"draws": float(rows), "asked": each * buyers(made, 1, 0), "lists": each * buyers(made, 4, 1)}
    defaults = {"draws": 300_000.0, "asked": each * buyers(made, 31, 0), "lists": each * month}
    for plan in (day, defaults):
        plan["asked"] = min(plan["asked"], float(Evaluation().max_users))
        plan["lists"] = min(plan["lists"], float(MultiTask().max_lists))
    return [
        Plan("a day", with_products({**base, **day}), DAY_PLAN),
        Plan("defaults", with_products({**base, **defaults}), DEFAULTS_PLAN),
    ]


def fits(found: Sequence[Measured], what: str) -> dict[str, Fit]:
    """The fit of each step that enough shops finished; ``what`` is a field of ``Cost``.

    An exact search takes time for each pair, but holds a block of them.
    """
    fitted = {}
    for step, of_step in OF_STEP.items():
        names = [name for name in of_step if what != "peak_mb" or name not in PRODUCTS]
        done = [one for one in found if step in one.steps]
        if len(done) > len(names):
            costs = [getattr(one.steps[step], what) for one in done]
            fitted[step] = fit(names, [one.drivers for one in done], costs)
    return fitted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="measure, and make the shops here")
    parser.add_argument("--largest", type=int, default=5_000_000, help="purchases of the largest shop")
    parser.add_argument("--at-once", type=int, default=1, help="shops that run beside each other")
    parser.add_argument("--minutes", type=float, default=60, help="longest run of a shop; its finished steps count")
    arguments = parser.parse_args()
    if arguments.out is not None:
        measure_all(shops(arguments.largest), arguments.out, arguments.at_once, arguments.minutes)
        KEPT.parent.mkdir(exist_ok=True)
        save(load(arguments.out / "measured.json"), KEPT)
    found = load(KEPT)
    (HERE / "scale" / "results.md").write_text(results(found), encoding="utf-8")
    text = page(fits(found, "cpu"), fits(found, "peak_mb"), plans(*TARGET), summary(found))
    (HERE.parent / "docs" / "sizing.md").write_text(text, encoding="utf-8")


def measure_all(wanted: Sequence[Shop], out: Path, at_once: int, minutes: float) -> None:
    """Measure the shops that ``out`` has no measurement of."""
    file = out / "measured.json"
    found = load(file) if file.exists() else []
    known = {one.shop for one in found}

    def one(shop: Shop) -> None:
        size = shop.size
        found.append(measure(shop, out / f"{size.rows}_{size.users}_{size.items}_{shop.test_days}", minutes))
        save(found, file)
        print(f"{shop}: {sum(cost.cpu for cost in found[-1].steps.values()):.0f} s of processor time", flush=True)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, [shop for shop in wanted if shop not in known]))


def line(found: Sequence[Measured]) -> list[Measured]:
    """The shops on the line, smallest first."""
    largest = max(one.shop.size.rows for one in found)
    wanted = shops(largest)[: DECADES + 1]
    return sorted((one for one in found if one.shop in wanted), key=lambda one: one.shop.size.rows)


def summary(found: Sequence[Measured]) -> str:
    """On what the costs were measured, in a sentence."""
    if not found:
        return "No shop was measured yet: all costs are those that other benchmarks measured (*)."
    rows = [one.shop.size.rows for one in found]
    spent = [sum(getattr(cost, what) for one in found for cost in one.steps.values()) for what in ("cpu", "seconds")]
    return (
        f"Measured on {len(found)} synthetic shops of {min(rows):,} to {max(rows):,} purchases, in processor time on\n"
        f"one thread; a run had {spent[0] / spent[1]:.2f} of a core, since other work shared the machine."
    )


def results(found: Sequence[Measured]) -> str:
    """The page of what was measured: the shops, each step's seconds, the fit, and how straight the line is."""
    if not found:
        return f"# Scale\n\n{summary(found)}\n"
    shown = sorted(found, key=lambda one: (one.shop.size.rows, one.shop.size.users, one.shop.size.items, one.asked))
    names = list(OF_STEP)
    lines = [
        "# Scale",
        "",
        summary(found),
        "",
        "| purchases | users | items | draws | asked | lists | core s | clock s | peak GB |",
        f"|{'---:|' * 9}",
    ]
    for one in shown:
        size, costs = one.shop.size, one.steps.values()
        counts = (size.rows, size.users, size.items, one.shop.draws, one.asked, one.lists)
        sums = (sum(cost.cpu for cost in costs), sum(cost.seconds for cost in costs))
        peak = max(cost.peak_mb for cost in costs) / 1e3
        lines.append(f"| {' | '.join(f'{n:,}' for n in counts)} | {sums[0]:,.0f} | {sums[1]:,.0f} | {peak:.1f} |")
    sizes = [f"{o.shop.size.rows:,} / {o.shop.size.users:,} / {o.shop.size.items:,}" for o in shown]
    alike = f" (the second of two alike: {MORE})" if len(set(sizes)) < len(sizes) else ""
    said = f"Core seconds of each step, by purchases / users / items{alike}; a step without a number was not finished:"
    lines += ["", said, ""]
    lines += [f"| step | {' | '.join(sizes)} |", f"|---|{'---:|' * len(shown)}"]
    for step in names:
        cells = [f"{one.steps[step].cpu:.1f}" if step in one.steps else "" for one in shown]
        lines.append(f"| {step} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_fit_table(fits(found, "cpu")), "", *_line_table(line(found))]) + "\n"


def _fit_table(fitted: dict[str, Fit]) -> list[str]:
    units = [unit for _, unit in UNITS.values()]
    lines = [f"| step | start | {' | '.join(units)} | worst |", f"|---|{'---:|' * (len(units) + 2)}"]
    for step, found in fitted.items():
        cells = [number(found.each[name] * unit) if name in found.each else "" for name, (unit, _) in UNITS.items()]
        lines.append(f"| {step} | {number(found.start)} | {' | '.join(cells)} | {found.worst:.0%} |")
    return ["The fit, in core seconds:", "", *lines]


def _line_table(found: Sequence[Measured]) -> list[str]:
    groups = {
        "Ingest, StatisticsGen and Transform": ON_BEAM,
        **{name: (name,) for name, drivers in OF_STEP.items() if drivers},
    }
    lines = ["| on the line | first decade | second | third | deviation |", "|---|---:|---:|---:|---:|"]
    rows = [one.shop.size.rows for one in found]
    for name, steps in groups.items():
        if len(found) <= DECADES or any(step not in one.steps for one in found for step in steps):
            continue
        costs = [sum(one.steps[step].cpu for step in steps) for one in found]
        if costs[-1] - costs[0] < LEAST:  # as good as no line
            continue
        each = [1e6 * (b - a) / (m - n) for a, b, n, m in zip(costs, costs[1:], rows, rows[1:], strict=False)]
        decades = " | ".join(f"{cost:.1f}" for cost in each)
        lines.append(f"| {name} | {decades} | {bend(rows[-3:], costs[-3:]):+.0%} |")
    if len(lines) == 2:
        return ["No step that depends on the shop was finished by all shops on the line."]
    return [
        "Core microseconds that a purchase more costs, with a tenth of a user and of an item, and by how much it is",
        "dearer in the third decade than in the second:",
        "",
        *lines,
    ]


def save(found: Sequence[Measured], file: Path) -> None:
    """Write what was measured, as JSON."""
    file.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")


def load(file: Path) -> list[Measured]:
    """Read what ``save`` wrote."""
    return [
        Measured(
            Shop(**{**one["shop"], "size": Size(**one["shop"]["size"])}),
            one["asked"],
            one["lists"],
            {name: Cost(**cost) for name, cost in one["steps"].items()},
        )
        for one in json.loads(file.read_text(encoding="utf-8"))
    ]


if __name__ == "__main__":
    main()
