import math
import re
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError

from twotower.pipeline.report import render, write
from twotower.pipeline.run_summary import (
    Anomaly,
    Count,
    Curve,
    MetricRow,
    MetricTable,
    Purchase,
    Recommendation,
    RunSummary,
    SliceCell,
    SliceRow,
    SliceTable,
    Step,
    UserExample,
    from_json,
    to_json,
)

HOSTILE = '<script>alert("1")</script> & </td><img src=x onerror=alert(2)>'
VOID = {"meta", "br", "img", "path", "circle", "polyline", "link"}


class Page(HTMLParser):
    """What a reader meets on the page: its tags and their attributes, its text, and the exact value of each number."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.values: set[str] = set()
        self.bold: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "data":
            self.values.add(str(dict(attrs)["value"]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if "b" in self.open:
            self.bold.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def household(user_id: str, description: str, recent: str, recommended: str) -> UserExample:
    """A household from two texts: lines of ``id|description|when`` and of ``id|description|score|marks``."""
    lists = [[line.strip().split("|") for line in text.strip().splitlines()] for text in (recent, recommended)]
    return UserExample(
        user_id,
        description,
        tuple(Purchase(*line) for line in lists[0]),
        tuple(
            Recommendation(rank, item_id, name, float(score), "r" in marks, "h" in marks)
            for rank, (item_id, name, score, marks) in enumerate(lists[1], start=1)
        ),
    )


def falling(start: float, floor: float, rate: float, epochs: int = 12) -> tuple[tuple[float, float], ...]:
    return tuple(
        (float(n), round(floor + (start - floor) * math.exp(-rate * n) + 0.01 * math.sin(5 * n), 4))
        for n in range(1, epochs + 1)
    )


def sliced(group: str, name: str, users: int, *values: float | None) -> SliceRow:
    cells = [None if value is None else SliceCell(value, 0.9 * value, 1.1 * value) for value in values]
    return SliceRow(group, name, users, tuple(cells))


@pytest.fixture(name="run")
def fixture_run() -> RunSummary:
    return example_run()


def example_run() -> RunSummary:
    """A run over grocery baskets, as the pipeline would tell it; the figures are made up."""
    return RunSummary(
        name="complete_journey",
        finished="2026-11-23 16:42 UTC",
        verdict="Blessed and pushed as version 1795452120.",
        passed=True,
        notice="Data: two years of grocery baskets of a few thousand volunteering households in one region; what is "
        "recommended here says nothing about other shoppers.",
        counts=(
            Count("Interactions read", 1469307, "transactions.parquet"),
            Count("Interactions for training", 1195204, "before 2017-12-01"),
            Count("Interactions for the test", 112310, "from 2017-12-01 on"),
            Count("Users", 2469, "2,024 of them in the test"),
            Count("Items in the catalogue", 16203, "each indexed once"),
        ),
        dropped=(
            Count("quantity is 0 or less", 11021, "returns and coupons"),
            Count("item bought by fewer than 10 users", 150687, "52,306 items"),
            Count("user without a purchase before the split", 85),
        ),
        anomalies=(
            Anomaly("eval", "store_id", "Unexpected string values", "3 values outside the schema's domain: 447, 3316"),
            Anomaly("train", "household_income", "Column dropped", "present in 31.2 % of rows, expected at least 50 %"),
        ),
        curves=(
            Curve(
                "Retrieval loss",
                "epoch",
                "softmax cross-entropy",
                {"train": falling(8.31, 5.42, 0.4), "validation": falling(8.27, 6.05, 0.5)},
            ),
            Curve(
                "Retrieval recall", "epoch", "Recall@100", {"validation": tuple((x, 0.9 - y) for x, y in RECALL_GAP)}
            ),
            Curve(
                "Ranking loss",
                "step",
                "binary cross-entropy",
                {
                    "purchase": tuple((x * 500, y) for x, y in falling(0.69, 0.31, 0.35, 20)),
                    "repeat": tuple((x * 500, y) for x, y in falling(0.66, 0.24, 0.45, 20)),
                    "weighted sum": tuple((x * 500, y) for x, y in falling(1.35, 0.55, 0.4, 20)),
                },
            ),
        ),
        tables=(
            MetricTable(
                "All purchases, 20 recommendations a user",
                "Full ranking of 16,203 items for 2,024 households; means over users with a purchase in the test.",
                ("Recall@20", "NDCG@20", "MAP@20", "MRR", "Coverage", "Novelty", "ms a user ↓"),
                (
                    MetricRow("popularity", (0.0565, 0.1493, 0.0585, 0.3127, 0.0012, 7.91, 0.02), ours=False),
                    MetricRow("bought most often", (0.1577, 0.3608, 0.2189, 0.5571, 0.443, 10.42, 0.05), ours=False),
                    MetricRow("last blessed model", (0.1702, 0.3855, None, 0.5713, 0.5211, 10.61, 1.84), ours=False),
                    MetricRow("two-tower", (0.1023, 0.2147, 0.0998, 0.4012, 0.4018, 11.07, 0.61), ours=True),
                    MetricRow("two-tower + ranking", (0.1741, 0.3927, 0.2466, 0.5802, 0.5377, 10.55, 1.71), ours=True),
                ),
            ),
            MetricTable(
                "New items only",
                "Items that the household had bought before are neither candidates nor relevant; 1,976 households.",
                ("Recall@20", "NDCG@20", "MAP@20", "Coverage"),
                (
                    MetricRow("popularity", (0.0303, 0.0407, 0.0111, 0.0061), ours=False),
                    MetricRow("two-tower", (0.0388, 0.0512, 0.0147, 0.2874), ours=True),
                    MetricRow("two-tower + ranking", (0.0411, 0.0561, 0.0159, 0.2415), ours=True),
                ),
            ),
        ),
        slices=(
            SliceTable(
                "All purchases: catalogue, by slice",
                "NDCG@20 with a 95% interval from 1,000 bootstrap resamples of the users; slices of at least 50 users",
                ("popularity", "bought most often", "two-tower", "two-tower + ranking", "last pushed"),
                (
                    sliced("history", "new: fewer than 5 events", 61, 0.0511, None, 0.0622, 0.0702, 0.0695),
                    sliced("history", "light: 5 to 212 events", 655, 0.1127, 0.2511, 0.1604, 0.2803, 0.2795),
                    sliced("history", "heavy: more than 611 events", 651, 0.1923, 0.4409, 0.2688, 0.4806, 0.4911),
                    sliced("household_size", "2", 232, 0.1427, 0.3491, 0.2011, 0.3702, 0.3755),
                    sliced(
                        "items",
                        "new: first sold in the last 30 days of training, or not in it",
                        *(402, 0.0, 0.0, 0.0211, 0.0187, 0.01),
                    ),
                    sliced("department", "DRUG GM", 1411, 0.0312, 0.0811, 0.0611, 0.0902, 0.0877),
                    sliced("department", "GROCERY", 1987, 0.1402, 0.3333, 0.1987, 0.3606, 0.3566),
                ),
                (Count("department, TRAVEL", 3), Count("age, 75+", 41)),
            ),
        ),
        users=(
            household(
                "household 1364",
                "Two adults and children, 45-54; 214 baskets before the test.",
                """1029743|FLUID MILK WHITE ONLY, 1 GA|2017-11-29
                1082185|BANANAS, 40 LB|2017-11-29
                981760|EGGS - X-LARGE, 1 DZ|2017-11-24
                916122|CHICKEN BREAST BONELESS|2017-11-24
                8090521|SHREDDED CHEESE, 8 OZ|2017-11-18""",
                """1082185|BANANAS, 40 LB|4.8124|rh
                1029743|FLUID MILK WHITE ONLY, 1 GA|4.7713|rh
                981760|EGGS - X-LARGE, 1 DZ|3.9044|rh
                1127831|STRAWBERRIES, 16 OZ|3.1207|r
                995242|FLUID MILK WHITE ONLY|2.9981|
                1106523|FLUID MILK WHITE ONLY, 2 %|2.7319|h
                961554|CARROTS MINI PEELED, 1 LB|2.6402|r
                860776|CUCUMBERS|2.2275|h""",
            ),
            household(
                "household 208",
                "One adult, 65+; 61 baskets before the test.",
                """844179|GROUND BEEF 80/20, 3 LB|2017-11-27
                1133018|WHITE BREAD, 20 OZ|2017-11-20
                5978648|GASOLINE-REG UNLEADED|2017-11-20""",
                """844179|GROUND BEEF 80/20, 3 LB|3.6120|rh
                1133018|WHITE BREAD, 20 OZ|3.4415|r
                1082185|BANANAS, 40 LB|2.2189|
                6534178|GASOLINE-REG UNLEADED|-0.1843|r""",
            ),
        ),
        steps=(
            Step("CsvExampleGen", "cached", 0.0312),
            Step("StatisticsGen", "cached", 0.0287),
            Step("SchemaCheck", "ran", 1.914),
            Step("Transform", "ran", 62.41),
            Step("RetrievalTrainer", "ran", 214.87),
            Step("IndexBuilder", "ran", 9.318),
            Step("RankingTrainer", "ran", 88.062),
            Step("Evaluator", "ran", 31.55),
            Step("Pusher", "ran", 0.4071),
        ),
        peak_memory_mb=5312.7,
        versions={
            "python": "3.11.11",
            "tensorflow": "2.16.2",
            "tf-keras": "2.16.0",
            "tfx": "1.16.0",
            "tensorflow-recommenders": "0.7.7",
            "scann": "1.3.2",
            "apache-beam": "2.61.0",
            "twotower": "0.1.0",
        },
        spec="""\
name: complete_journey
interactions:
  path: transactions.parquet
  user: household_id
  item: product_id
  time: transaction_timestamp
split:
  test_from: 2017-12-01  # the last month
  minimum_users_per_item: 10
model:
  retrieval: {dim: 64, negatives: mixed, temperature: 0.07, batch_size: 4096}
  ranking: {tasks: [purchase, repeat]}
""",
    )


RECALL_GAP = falling(0.79, 0.42, 0.45)


def numbers(thing: object) -> list[float]:
    """Every number that a summary holds, but for flags and ranks."""
    if isinstance(thing, bool):
        return []
    if isinstance(thing, int | float):
        return [thing]
    if isinstance(thing, dict):
        return [number for value in thing.values() for number in numbers(value)]
    if isinstance(thing, tuple):
        return [number for value in thing for number in numbers(value)]
    if is_dataclass(thing):
        return [n for field in fields(thing) if field.name != "rank" for n in numbers(getattr(thing, field.name))]
    return []


def texts(thing: object) -> list[str]:
    """Every text that a summary holds."""
    if isinstance(thing, str):
        return [thing]
    if isinstance(thing, dict):
        return [text for pair in thing.items() for text in texts(pair)]
    if isinstance(thing, tuple):
        return [text for value in thing for text in texts(value)]
    if is_dataclass(thing):
        return [text for field in fields(thing) for text in texts(getattr(thing, field.name))]
    return []


def test_page_holds_every_number_and_text(run: RunSummary) -> None:
    page = Page(render(run))
    assert len(numbers(run)) > 150
    assert {str(number) for number in numbers(run)} <= page.values
    assert [text for text in texts(run) if text not in page.text] == []


def test_numbers_read_well(run: RunSummary) -> None:
    text = Page(render(run)).text
    for shown in ("1,469,307", "5,313 MB", "3 min 35 s", "1 min 02 s", "9.32 s", "10.42"):
        assert shown in text


def test_repeats_and_hits_are_told_apart(run: RunSummary) -> None:
    page = render(run)
    assert "Recommended: 5 of 8 hit, 5 repeats" in page
    row = page[page.index("CUCUMBERS") : page.index("</tr>", page.index("CUCUMBERS"))]
    assert ">new<" in row
    assert ">hit<" in row
    row = page[page.index("STRAWBERRIES") : page.index("</tr>", page.index("STRAWBERRIES"))]
    assert ">repeat<" in row
    assert ">no<" in row


def test_untrusted_text_shows_as_text(run: RunSummary) -> None:
    user = UserExample(
        HOSTILE,
        HOSTILE,
        (Purchase(HOSTILE, HOSTILE, HOSTILE),),
        (Recommendation(1, HOSTILE, HOSTILE, 1.0, True, True),),
    )
    hostile = RunSummary(
        name=HOSTILE,
        finished=HOSTILE,
        verdict=HOSTILE,
        passed=False,
        notice=HOSTILE,
        counts=(Count(HOSTILE, 1, HOSTILE),),
        dropped=(Count(HOSTILE, 1, HOSTILE),),
        anomalies=(Anomaly(HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
        curves=(Curve(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: ((1.0, 1.0), (2.0, 2.0))}),),
        tables=(MetricTable(HOSTILE, HOSTILE, (HOSTILE,), (MetricRow(HOSTILE, (1.0,), True),)),),
        slices=(
            SliceTable(
                HOSTILE, HOSTILE, (HOSTILE,), (sliced(HOSTILE, HOSTILE, 1, 1.0),), (Count(HOSTILE, 1, HOSTILE),)
            ),
        ),
        users=(user,),
        steps=(Step(HOSTILE, "ran", 1.0),),
        peak_memory_mb=1.0,
        versions={HOSTILE: HOSTILE},
        spec=HOSTILE,
    )
    page = Page(render(hostile))
    expected = Page(render(run))
    assert page.named("script") == page.named("img") == []
    assert {name for _, attributes in page.tags for name in attributes} <= {
        name for _, attributes in expected.tags for name in attributes
    }
    assert page.text.count(HOSTILE) >= len(texts(hostile)) - 1  # all but the step's status


def test_nothing_is_fetched_or_run(run: RunSummary) -> None:
    html = render(replace(run, spec="path: https://example.com/a.csv"))
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "image", "use", "base"} & {
        t for t, _ in page.tags
    }
    for _, attributes in page.tags:
        assert not {"src", "srcset", "action", "background", "xlink:href"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in html
    assert "@import" not in html
    assert html.count("://") == 1  # the spec's, which is text


def best_of(columns: tuple[str, ...], *rows: tuple[float | None, ...]) -> list[str]:
    run = replace(
        example_run(),
        users=(),
        tables=(MetricTable("t", "", columns, tuple(MetricRow(str(i), row, False) for i, row in enumerate(rows))),),
    )
    return Page(render(run)).bold


def test_best_value_of_each_column_is_bold() -> None:
    assert sorted(best_of(("NDCG", "RMSE ↓"), (0.3608, 1.21), (0.3927, 1.35), (None, None))) == ["0.3927", "1.210"]


def test_values_that_read_the_same_share_the_place() -> None:
    assert best_of(("Recall",), (0.15774,), (0.15771,), (0.1576,)) == ["0.1577", "0.1577"]


def test_a_missing_or_undefined_value_is_never_best() -> None:
    assert best_of(("a", "b"), (None, math.nan), (-1.5, 0.5)) == ["−1.500", "0.5000"]
    assert best_of(("a", "b"), (None, math.nan)) == []


def test_our_rows_are_marked(run: RunSummary) -> None:
    html = render(run)
    rows = [row.split("</tr>")[0] for row in html.split("<tr")]
    marked = [row for row in rows if row.startswith(' class="ours"')]
    assert len(marked) == 4
    assert all(">two-tower" in row and ">ours<" in row for row in marked)
    assert sum(">ours<" in row for row in rows) == 4


def test_verdict_is_words_before_colour(run: RunSummary) -> None:
    assert "Passed Blessed and pushed as version 1795452120." in Page(render(run)).text
    failed = replace(run, passed=False, verdict="Not blessed: NDCG@20 .1401 is below popularity's .1493.")
    assert "Not passed Not blessed: NDCG@20 .1401 is below popularity's .1493." in Page(render(failed)).text


def test_json_round_trip(run: RunSummary) -> None:
    copy = from_json(to_json(run))
    assert copy == run
    assert render(copy) == render(run)


def test_json_keeps_what_is_not_a_number(run: RunSummary) -> None:
    curve = Curve("diverged", "epoch", "loss", {"train": ((1.0, 0.5), (2.0, math.nan), (3.0, math.inf))})
    points = from_json(to_json(replace(run, curves=(curve,)))).curves[0].series["train"]
    assert points[0] == (1.0, 0.5)
    assert math.isnan(points[1][1])
    assert points[2][1] == math.inf


def test_json_of_another_shape_is_refused_by_field(run: RunSummary) -> None:
    with pytest.raises(ValidationError, match=r"peak_memory\n"):
        from_json(to_json(run).replace('"peak_memory_mb"', '"peak_memory"'))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("counts", "This run recorded no counts."),
        ("dropped", "Nothing was dropped."),
        ("anomalies", "Data validation found no anomalies."),
        ("curves", "This run recorded no training curves."),
        ("tables", "This run recorded no metrics."),
        ("users", "This run recorded no example users."),
        ("steps", "This run recorded no steps."),
        ("versions", "This run recorded no versions."),
        ("spec", "This run recorded no spec."),
    ],
)
def test_an_empty_section_says_so(run: RunSummary, section: str, words: str) -> None:
    empty = {"versions": {}, "spec": ""}.get(section, ())
    assert words not in render(run)
    assert words in render(replace(run, **{section: empty}))  # type: ignore[arg-type]


def test_empty_lists_of_a_user_say_so(run: RunSummary) -> None:
    page = render(replace(run, users=(UserExample("new", "", (), ()),)))
    assert "No purchases before the test period." in page
    assert "The list is empty." in page


def points_drawn(series: dict[str, tuple[tuple[float, float], ...]]) -> tuple[list[list[tuple[float, float]]], str]:
    """The lines on the page, in the units of the drawing, and the page's text."""
    page = Page(render(replace(example_run(), curves=(Curve("c", "x", "y", series),))))
    lines = [str(line["points"]).split() for line in page.named("polyline")]
    return [[(float(x), float(y)) for x, y in (p.split(",") for p in line)] for line in lines], page.text


def test_a_curve_is_drawn_to_scale() -> None:
    ((first, middle, last),), text = points_drawn({"train": ((0.0, 0.0), (5.0, 10.0), (10.0, 5.0))})
    assert middle[0] == pytest.approx((first[0] + last[0]) / 2, abs=0.02)
    assert last[1] == pytest.approx((first[1] + middle[1]) / 2, abs=0.02)
    assert middle[1] < last[1] < first[1]  # up the page
    assert ", last 5" in text


def test_a_gap_in_a_curve_stays_a_gap() -> None:
    points = ((1.0, 3.0), (2.0, 2.0), (3.0, math.nan), (4.0, 1.0), (5.0, 1.5))
    lines, _ = points_drawn({"train": points})
    assert [len(line) for line in lines] == [2, 2]


@pytest.mark.parametrize("value", [0.0, 1e-9, -7.25, 3e12])
def test_a_flat_or_single_point_curve_is_drawn(value: float) -> None:
    lines, _ = points_drawn({"flat": ((1.0, value), (2.0, value)), "single": ((1.5, value),)})
    ((left, right),) = lines
    assert left[1] == right[1]
    assert 0 < left[1] < 210
    page = Page(render(replace(example_run(), curves=(Curve("c", "x", "y", {"single": ((1.5, value),)}),))))
    assert len(page.named("circle")) == 1


def test_a_curve_without_finite_values_says_so() -> None:
    lines, text = points_drawn({"train": ((1.0, math.nan),), "validation": ()})
    assert lines == []
    assert "This curve has no finite values." in text
    assert "validation, no points" in text


def test_a_repeated_x_keeps_both_values() -> None:
    _, text = points_drawn({"train": ((1.0, 0.25), (1.0, 0.75), (2.0, 0.5))})
    assert "0.25" in text
    assert "0.75" in text


def test_headings_descend_one_level_at_a_time(run: RunSummary) -> None:
    levels = [int(tag[1]) for tag, _ in Page(render(run)).tags if tag in {"h1", "h2", "h3", "h4"}]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_tables_and_charts_are_labelled(run: RunSummary) -> None:
    page = Page(render(run))
    assert all(th.get("scope") in {"row", "col"} for th in page.named("th"))
    assert len(page.named("caption")) == len(page.named("table"))
    assert all(svg.get("aria-hidden") or svg.get("aria-label") for svg in page.named("svg"))
    ids = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for a in page.named("a")} == set(ids)


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb (WCAG 2.2)."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_its_background(run: RunSummary, theme: int) -> None:
    block = re.findall(r":root {(.*?)}", render(run), re.DOTALL)[theme]
    colours = {name: luminance(colour) for name, colour in re.findall(r"--(\S+): #(\w+)", block)}
    pairs = [(ink, back) for ink in ("text", "muted", "link") for back in ("page", "box", "ours", "good-box")]
    pairs += [("good", "good-box"), ("bad", "bad-box"), ("bad", "page"), *((f"s{i}", "page") for i in range(6))]
    for ink, back in pairs:
        dark, light = sorted((colours[ink], colours[back]))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{ink} on {back}"  # WCAG 2.2, level AA


def test_write_makes_the_folder_and_replaces_the_page(run: RunSummary, tmp_path: Path) -> None:
    path = tmp_path / "reports" / "report.html"
    write(replace(run, name="first"), path)
    write(run, path)
    assert path.read_text(encoding="utf-8") == render(run)
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_rendering_leaves_the_old_page_and_no_other_file(run: RunSummary, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write(run, path)
    with pytest.raises((TypeError, ValueError)):
        write(replace(run, peak_memory_mb="much"), path)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text(encoding="utf-8") == render(run)


def test_a_failed_replacement_leaves_no_temporary_file(run: RunSummary, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        write(run, path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_title_that_utf8_cannot_hold_is_written(run: RunSummary, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write(replace(run, name="broken \ud83d title"), path)
    assert "broken ? title" in path.read_text(encoding="utf-8")


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"table 'T', row 'als': 1 values, expected 2"):
        MetricTable("T", "", ("a", "b"), (MetricRow("als", (1.0,), ours=False),))


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(ValueError, match=r"step 'Transform': status 'done', expected one of ran, cached, looked up"):
        Step("Transform", "done", 1.0)
