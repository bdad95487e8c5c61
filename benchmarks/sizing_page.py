"""docs/sizing.md: what a shop of a size needs, from fitted costs, with the arithmetic shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cost_fit import OF_STEP, PRODUCTS, Drivers, Fit

# Drivers are counted in these: "100 x 3.1 s" is read sooner than "100,000,000 x 0.0000031 s".
UNITS: Mapping[str, tuple[float, str]] = {
    "purchases": (1e6, "million purchases"),
    "users": (1e6, "million users"),
    "items": (1e6, "million items"),
    "draws": (1e6, "million draws"),
    "asked": (1e3, "thousand asked"),
    "lists": (1e3, "thousand lists"),
    "scored": (1e3, "thousand scored"),
    "asked x items": (1e9, "billion asked x items"),
    "lists x items": (1e9, "billion lists x items"),
}
ON_BEAM: tuple[str, ...] = ("Ingest", "StatisticsGen", "Transform")
# In the same process and after a process boundary: Ingest of 1,469,307 purchases, in benchmarks/README.md.
IN_PROCESS, ACROSS_PROCESSES = 17.4, 39.7
# Share of a worker's time that a job of many workers gets done, with stragglers and a start.
BUSY = 0.7
LIMIT_HOURS = (1, 4)
DAY = 86_400
# Memory of the one machine whose limits are named, in GB.
MACHINE = 256
FLOAT, WIDTH, GRAPH = 4, 64, 64
# Users whose lists ScoreRanking makes at most (pipeline/score_ranking.py).
SCORED = 1_000
# Numbers of a candidate in the Complete Journey's lists, at half precision; row, labels and weight beside them.
LIST_SIZE, LIST_NUMBERS = 128, 123

INTRODUCTION = """\
What 100 million purchases, 10 million users and 10 million items need. Written by `benchmarks/scale.py`, from the
costs in [its results](../benchmarks/scale/results.md); nothing of this size was run. Each sum is a fitted start and a
fitted cost times how many there are, and reaches far beyond the measured shops: take it as an order of magnitude."""
TIME = """\
Seconds of one core; purchases, users, items and draws in millions, asked users and lists in thousands, and the pairs
that an exact search compares in billions. The ranker's cost is that of one epoch; the default is two. A step with a *
was finished by too few of the measured shops for a fit, and stands with what other benchmarks measured of its
largest part alone:"""
MEMORY = """\
All steps but Ingest, StatisticsGen, Transform and Evaluator hold their data in the memory of one machine. The large
arrays at once, as `defaults` has them, with every id known (`retrieval.min_id_count` leaves some out):"""
PEAKS = """\
What the arrays come to with copies, Beam's in-memory shuffle and what earlier steps left in the process, extrapolated
from measured peaks (MB = start + so much for each million, thousand or billion). Memory steps up with every copy of
an array and the allocator keeps what it has, so that this is rougher than time:"""
WORKERS = f"""\
Only Ingest, StatisticsGen and Transform spread over workers (Evaluator is on Beam too, but reads the lists of 1,000
users whatever the shop). A worker is one core that is busy {BUSY:.0%} of the time. Across processes Beam serialises
what passes between stages: Ingest of 1,469,307 purchases took {ACROSS_PROCESSES} s for {IN_PROCESS} s
([benchmarks](../benchmarks/README.md#ingest)), {ACROSS_PROCESSES / IN_PROCESS:.2f} times as long, which is assumed for
every engine. Dask, Flink, Spark and Dataflow were not measured; they run the same Python code. Without `--beam-runner`
([beam.md](beam.md)) the pipeline runs in one process, which keeps every group of the shuffle in memory. The towers'
training spreads over machines in another way: [distributed.md](distributed.md). Workers for `a day`, of those of the
three steps that are in the sums above:"""


@dataclass(frozen=True)
class Paper:
    """The largest part of a step's cost, from other benchmarks: seconds of a core for one of a driver, and the sum."""

    step: str
    driver: str
    seconds: float
    sum: str


# All from benchmarks/README.md.
PAPERS = (
    Paper(
        "Ingest",
        "purchases",
        (17.4 - 13.9) / (1_469_307 - 300_000),
        "1,469,307 purchases in 17.4 s, 300,000 in 13.9 s (Ingest)",
    ),
    Paper("Ingest", "items", 13.0 / 92_334, "the other 13.0 s are those of 92,334 items, and the start (Ingest)"),
    Paper("Trainer.retrieval", "draws", 1 / 161_464, "161,464 examples/s (Training speed)"),
    Paper("BuildIndex", "items", 2 * (29 + 36) / 1e6, "1,000,000 x 64 in 29 and 36 s, twice as wide here (Index)"),
    Paper(
        "EvaluateRetrieval",
        "asked x items",
        5 / (1_567 * 92_334),
        "five rankings, each 1,567 users a second of 92,334 items (Index, exact)",
    ),
    Paper(
        "Trainer.ranking", "lists", (71 + 35 / 2) / 11_670, "11,670 lists in 71 s, an epoch of them 17.5 s (Ranking)"
    ),
    Paper(
        "CheckServable",
        "asked",
        2 * (6.2 + 0.9 + 6.2) / 1e3,
        "recommend, retrieve and discover in 6.2, 0.9 and 6.2 ms, of two indexes (Recommend)",
    ),
)


@dataclass(frozen=True)
class Plan:
    """A shop to size: how many of each driver, and in words what was chosen for it."""

    name: str
    drivers: Drivers
    why: str


def with_products(drivers: Drivers) -> Drivers:
    """The drivers, and those that follow from others."""
    return {
        **drivers,
        "scored": min(drivers["asked"], SCORED),
        "asked x items": drivers["asked"] * drivers["items"],
        "lists x items": drivers["lists"] * drivers["items"],
    }


def arithmetic(found: Fit, drivers: Drivers) -> str:
    """The sum as a person would write it: ``12 + 100 x 16.2 + 10 x 30.1``; what costs nothing is left out."""
    terms = [number(found.start)]
    for name, cost in found.each.items():
        unit, _ = UNITS[name]
        if cost:
            terms.append(f"{number(drivers[name] / unit)} x {number(cost * unit)}")
    return " + ".join(terms)


def number(value: float) -> str:
    """Three digits at least, with thousands apart: 0.0123, 1.23, 123, 12,345."""
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``40 s``, ``12 min``, ``3.4 h``, ``12 days``."""
    for limit, unit, name in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{number(round(seconds / unit, 1))} {name}"
    return f"{number(round(seconds / 86_400, 1))} days"


def page(seconds: Mapping[str, Fit], peaks: Mapping[str, Fit], plans: Sequence[Plan], measured: str) -> str:
    """The whole page; ``measured`` says on what shops the costs were measured."""
    last, known = plans[-1].drivers, or_paper(seconds)
    unknown = [step for step in OF_STEP if step not in known and f"{step} *" not in known]
    parts = [
        ["# Sizing", "", INTRODUCTION, "", measured, "", *_plans_table(plans)],
        *([plan.why] for plan in plans),
        ["## Time", "", TIME, "", *_papers_table(seconds)],
        *(steps_table(known, plan) for plan in plans),
        *([[f"**Not in these sums**, for nothing is known of them yet: {', '.join(unknown)}."]] if unknown else []),
        ["## Memory", "", MEMORY, "", *memory_table(last)],
        *([[PEAKS, "", *peaks_table(peaks, plans)]] if peaks else []),
        ["## Workers", "", WORKERS, "", *engines_table(known, plans[0])],
        ["## What breaks first", "", *limits(known, peaks, plans)],
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def or_paper(seconds: Mapping[str, Fit]) -> dict[str, Fit]:
    """The fits, and for steps without one what ``PAPERS`` says, marked with a *; in the pipeline's order."""
    papers: dict[str, Fit] = {}
    for paper in PAPERS:
        each = papers[paper.step].each if paper.step in papers else {}
        papers[paper.step] = Fit(0.0, {**each, paper.driver: paper.seconds}, 0.0)
    known: dict[str, Fit] = {}
    for step in OF_STEP:
        if step in seconds:
            known[step] = seconds[step]
        elif step in papers:
            known[f"{step} *"] = papers[step]
    return known


def _papers_table(seconds: Mapping[str, Fit]) -> list[str]:
    lines = ["| step | seconds for a | elsewhere | fitted | from |", "|---|---|---:|---:|---|"]
    for paper in PAPERS:
        unit, name = UNITS[paper.driver]
        fitted = number(seconds[paper.step].each[paper.driver] * unit) if paper.step in seconds else "-"
        lines.append(f"| {paper.step} | {name} | {number(paper.seconds * unit)} | {fitted} | {paper.sum} |")
    return lines


def _plans_table(plans: Sequence[Plan]) -> list[str]:
    lines = [f"| | {' | '.join(plan.name for plan in plans)} |", f"|---|{'---:|' * len(plans)}"]
    for name in ("purchases", "users", "items", "draws", "asked", "lists"):
        lines.append(f"| {name} | {' | '.join(f'{plan.drivers[name]:,.0f}' for plan in plans)} |")
    return lines


def steps_table(fits: Mapping[str, Fit], plan: Plan) -> list[str]:
    """Seconds of one core that each step takes."""
    lines = [f"| step | {plan.name}: seconds of one core | that is |", "|---|---|---|"]
    total = 0.0
    for step, found in fits.items():
        seconds = found.at(plan.drivers)
        total += seconds
        lines.append(f"| {step} | {arithmetic(found, plan.drivers)} = {number(seconds)} | {duration(seconds)} |")
    return [*lines, f"| **all of these** | {number(total)} | {duration(total)} |"]


@dataclass(frozen=True)
class Held:
    """Something that a step holds in the memory of one machine: what, in which steps, the sum, and bytes."""

    what: str
    where: str
    sum: str
    nbytes: float


def held(drivers: Drivers) -> list[Held]:
    """What is held by the steps that are not on Beam; every id counts as known, which is the most there can be."""
    rows, users, items, lists = (drivers[name] for name in ("purchases", "users", "items", "lists"))
    vector = FLOAT * WIDTH
    per_list = LIST_SIZE * (2 * LIST_NUMBERS + 16)
    return [
        Held(
            "timelines: item, time and quantity of each purchase",
            "every step from Trainer.retrieval on",
            f"{number(rows)} x (4 + 8 + 4)",
            rows * 16,
        ),
        Held(
            "draws of training: event, running share, owner, cut, start and bounds of the basket",
            "Trainer.retrieval",
            f"{number(rows)} x 7 x 8",
            rows * 56,
        ),
        Held(
            "ids of users and items as Python's bytes",
            "every step from Trainer.retrieval on",
            f"({number(users)} + {number(items)}) x (8 + 41)",
            (users + items) * 49,
        ),
        Held(
            "vectors of users' ids, with Adam's two slots",
            "Trainer.retrieval",
            f"{number(users)} x {WIDTH} x 4 x 3",
            users * vector * 3,
        ),
        Held(
            "vectors of items' ids, as candidates and in histories, with Adam's two slots",
            "Trainer.retrieval",
            f"{number(items)} x 2 x {WIDTH} x 4 x 3",
            items * 2 * vector * 3,
        ),
        Held(
            "the graph's factors of items, as candidates and in histories",
            "Trainer.retrieval",
            f"{number(items)} x 2 x {GRAPH} x 4",
            items * 2 * FLOAT * GRAPH,
        ),
        Held(
            "the catalogue's vectors, and the index's copy of them",
            "BuildIndex, EvaluateRetrieval, the server",
            f"{number(items)} x ({WIDTH} + {GRAPH}) x 4 x 2",
            items * FLOAT * (WIDTH + GRAPH) * 2,
        ),
        Held(
            "the ranker's lists",
            "Trainer.ranking",
            f"{number(lists)} x {LIST_SIZE} x (2 x {LIST_NUMBERS} + 16)",
            lists * per_list,
        ),
    ]


def memory_table(drivers: Drivers) -> list[str]:
    """The arithmetic of ``held``."""
    lines = ["| what | held by | bytes | GB |", "|---|---|---|---|"]
    for one in held(drivers):
        lines.append(f"| {one.what} | {one.where} | {one.sum} | {number(one.nbytes / 1e9)} |")
    return lines


def peaks_table(fits: Mapping[str, Fit], plans: Sequence[Plan]) -> list[str]:
    """Peaks of the process, extrapolated from those that were measured."""
    lines = [
        f"| step | worst | {' | '.join(f'{plan.name}, MB' for plan in plans)} |",
        f"|---|---|{'---|' * len(plans)}",
    ]
    for step, found in fits.items():
        sums = [f"{arithmetic(found, plan.drivers)} = {number(found.at(plan.drivers))}" for plan in plans]
        lines.append(f"| {step} | {found.worst:.0%} | {' | '.join(sums)} |")
    return lines


def workers(core_seconds: float, hours: float, dearer: float) -> int:
    """Workers of one core that do so much in so many hours, where a core does it ``dearer`` times slower."""
    return max(1, math.ceil(core_seconds * dearer / (hours * 3_600 * BUSY)))


def engines_table(fits: Mapping[str, Fit], plan: Plan) -> list[str]:
    """Workers that the Beam steps need on each engine."""
    seconds = sum(one.at(plan.drivers) for step, one in fits.items() if step.removesuffix(" *") in ON_BEAM)
    dearer = ACROSS_PROCESSES / IN_PROCESS
    head = " | ".join(f"workers for {hours} h" for hours in LIMIT_HOURS)
    lines = [f"| engine | core-seconds | {head} |", f"|---|---|{'---|' * len(LIMIT_HOURS)}"]
    lines.append(f"| direct, `in_memory` | {number(seconds)} | {' | '.join(_alone(seconds, h) for h in LIMIT_HOURS)} |")
    for engine in ("direct, `multi_processing`", "Dask", "Flink", "Spark", "Dataflow"):
        counts = " | ".join(number(workers(seconds, hours, dearer)) for hours in LIMIT_HOURS)
        lines.append(f"| {engine} | {number(seconds)} x {dearer:.2f} = {number(seconds * dearer)} | {counts} |")
    return lines


def _alone(seconds: float, hours: float) -> str:
    return f"one, done in {duration(seconds)}" if seconds <= hours * 3_600 else f"one takes {duration(seconds)}"


def reached(found: Fit, drivers: Drivers, limit: float) -> float | None:
    """The share of a shop's size at which a cost reaches a limit, where everything grows alike; None: not before 1."""

    def of(share: float) -> float:
        plain = {name: share * drivers[name] for name in drivers if name not in PRODUCTS}
        return found.at(with_products(plain))

    if of(1.0) <= limit:
        return None
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if of(middle) <= limit else (low, middle)
    return low


def limits(seconds: Mapping[str, Fit], peaks: Mapping[str, Fit], plans: Sequence[Plan]) -> list[str]:
    """In which order a growing shop meets the limits of one machine, by the page's own numbers."""
    found: list[tuple[float, str]] = []
    for plan in plans:
        lists = next(one for one in held(plan.drivers) if one.where == "Trainer.ranking").nbytes
        full = Fit(0.0, {"lists": lists / plan.drivers["lists"] / 1e6}, 0.0)
        reasons = [(full, MACHINE * 1e3, "the arrays of the ranker's lists fill its memory")]
        reasons += [(one, MACHINE * 1e3, f"{step}'s extrapolated peak fills it") for step, one in peaks.items()]
        reasons += [
            (one, DAY, f"{step} takes longer than a day on one core")
            for step, one in seconds.items()
            if step.removesuffix(" *") not in ON_BEAM
        ]
        for one, limit, what in reasons:
            share = reached(one, plan.drivers, limit)
            if share is not None:
                found.append((share * plan.drivers["purchases"], f"{what} ({plan.name})"))
    if not found:
        return [
            f"On one machine of {MACHINE} GB, nothing that is extrapolated here: no step's memory fills it, and none",
            "but those that spread over workers takes longer than a day on one core.",
        ]
    return [
        f"On one machine of {MACHINE} GB, a shop that grows towards this one (ten purchases a user, as many items as",
        "users) meets these limits, in this order:",
        "",
        *(f"- {number(rows / 1e6)} million purchases: {what}" for rows, what in sorted(found)),
    ]
