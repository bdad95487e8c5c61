"""A spec that does not fit is refused in one line: the file, the key, what was found, what was expected."""

import datetime as dt
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from twotower.features import spec
from twotower.features.errors import InputError

EXAMPLES = Path(__file__).parents[2] / "examples"


def valid() -> dict[str, Any]:
    """A spec that names every section and every kind of feature."""
    return {
        "name": "shop",
        "notice": "made up",
        "seed": 3,
        "interactions": {
            "path": "events.csv",
            "format": "csv",
            "user": "who",
            "item": "what",
            "time": "when",
            "time_format": "%d.%m.%Y",
            "quantity": "many",
            "drop": [{"column": "many", "below": 1, "reason": "returns"}],
            "max_events_per_user": 50,
        },
        "users": {"from": "interactions", "id": "who", "duplicates": "last"},
        "items": {
            "path": "items-*.parquet",
            "id": "what",
            "duplicates": "last",
            "describe": ["title"],
            "drop": [{"column": "title", "missing": True, "reason": "no title"}],
            "features": {
                "brand": {"kind": "category", "column": "maker", "min_count": 2},
                "price": {"kind": "number", "log": True, "buckets": 4},
                "title": {"kind": "text", "hash_buckets": 64, "max_tokens": 4},
                "image": {"kind": "vector", "size": 3},
                "tags": {"kind": "sequence", "separator": "|", "max_length": 2},
                "listed": {"kind": "time", "part": "month"},
            },
        },
        "context": {"store": {"kind": "category", "min_count": 2}, "hour": {"kind": "time", "part": "hour"}},
        "split": {"test_from": "2017-12-01", "test_days": 31},
        "schema_file": "schema.pbtxt",
        "evaluation": {"cutoffs": [10], "candidates": [{"name": "all", "min_users": 0}], "tolerance": 0.1},
        "serving": {"model_name": "shop", "index": "portable", "exact_below": 10},
    }


def error(raw: object, **options: Any) -> str:
    text = raw if isinstance(raw, str) else yaml.safe_dump(raw, sort_keys=False)
    with pytest.raises(InputError) as caught:
        spec.parse(text, where="shop.yaml", base=Path("/base"), **options)
    message = str(caught.value)
    assert message.startswith("shop.yaml: ")
    assert "\n" not in message
    return message


def at(raw: dict[str, Any], *keys: str | int) -> Any:
    for key in keys:
        raw = raw[key]  # type: ignore[index]
    return raw


def paths_of_keys(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every key at every depth."""
    entries: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, child in entries:
        found += ([(*path, key)] if isinstance(key, str) else []) + paths_of_keys(child, (*path, key))
    return found


def fixed(path: tuple[str | int, ...]) -> bool:
    """Whether the key is the spec's own word, and not a name that the user gives to a feature."""
    return path[:-1] not in (("items", "features"), ("context",))


def parsed(raw: dict[str, Any]) -> spec.Spec:
    return spec.parse(yaml.safe_dump(raw, sort_keys=False), where="shop.yaml", base=Path("/base"))


def test_valid_spec_is_read_and_survives_json() -> None:
    found = parsed(valid())
    assert found.interactions.path == "/base/events.csv"
    assert found.items is not None
    assert found.items.path == "/base/items-*.parquet"
    assert found.schema_file == "/base/schema.pbtxt"
    assert [feature.kind for feature in found.item_features.values()] == [
        "category", "number", "text", "vector", "sequence", "time",
    ]  # fmt: skip
    assert found.user_features == {}
    assert spec.Spec.model_validate_json(found.model_dump_json()) == found
    assert spec.Spec.model_validate_json(found.model_dump_json(by_alias=True)) == found


def test_examples_are_valid() -> None:
    files = sorted(EXAMPLES.glob("*/spec.yaml"))
    assert len(files) >= 2
    for file in files:
        assert spec.load(file).name == file.parent.name


@pytest.mark.parametrize("path", [p for p in paths_of_keys(valid()) if fixed(p)], ids=lambda p: ".".join(map(str, p)))
def test_misspelt_key_is_named_with_the_nearest_known_one(path: tuple[str | int, ...]) -> None:
    raw = valid()
    section, key = at(raw, *path[:-1]), path[-1]
    assert isinstance(key, str)
    misspelt = key + "x"
    section[misspelt] = section.pop(key)
    message = error(raw)
    if key == "kind":  # without its kind a feature is not known to have other keys
        assert f"key '{'.'.join(map(str, path))}': found None, expected one of" in message
    else:
        wrong = ".".join(map(str, [*path[:-1], misspelt]))
        assert f"unknown key '{wrong}': did you mean '{key}'?" in message


@pytest.mark.parametrize("name", ["category", "text", "time", "number", "vector", "sequence"])
def test_feature_named_like_a_kind_keeps_its_name_in_errors(name: str) -> None:
    raw = valid()
    raw["items"]["features"][name] = {"kind": "category", "colum": "c"}
    assert f"unknown key 'items.features.{name}.colum': did you mean 'column'?" in error(raw)


def test_key_that_is_near_nothing_lists_the_known_ones() -> None:
    raw = valid()
    raw["split"]["zzz"] = 1
    assert "unknown key 'split.zzz': expected one of kind, test_days, test_from, train_from" in error(raw)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("name",), "My Shop", "key 'name': found 'My Shop'; string should match pattern"),
        (("seed",), "three", "key 'seed': found 'three'; input should be a valid integer"),
        (("interactions",), "events.csv", "key 'interactions': found 'events.csv'; input should be"),
        (("interactions", "path"), 3, "key 'interactions.path': found "),
        (("interactions", "path"), "", "key 'interactions.path': found ''; string should have at least 1 character"),
        (("interactions", "format"), "xlsx", "key 'interactions.format': found 'xlsx'; input should be 'csv', 'par"),
        (("interactions", "drop"), {"column": "c"}, "key 'interactions.drop': found {'column': 'c'}; input should"),
        (("interactions", "max_events_per_user"), 0, "key 'interactions.max_events_per_user': found 0; input should"),
        (("items", "features", "price", "log"), "perhaps", "key 'items.features.price.log': found 'perhaps'"),
        (("items", "features", "image", "size"), -1, "key 'items.features.image.size': found -1; input should be gr"),
        (("items", "features", "listed", "part"), "year", "key 'items.features.listed.part': found 'year'"),
        (("items", "features", "price"), "number", "key 'items.features.price': found 'number'; input should be"),
        (("items", "features", "Bad Name"), {"kind": "text"}, "key 'items.features.Bad Name': found 'Bad Name'; str"),
        (("items", "describe"), "title", "key 'items.describe': found 'title'; input should be a valid tuple"),
        (("split", "test_days"), 0, "key 'split.test_days': found 0; input should be greater than 0"),
        (("split", "test_from"), "December", "key 'split.test_from': found 'December'; input should be a valid date"),
        (("split", "test_from"), 20171201, "key 'split.test_from': found 20171201; expected a date or time like"),
        (("evaluation", "candidates"), [], "key 'evaluation.candidates': found []; tuple should have at least 1"),
        (("evaluation", "candidates", 0, "min_users"), -1, "key 'evaluation.candidates.0.min_users': found -1"),
        (("evaluation", "cutoffs"), [5, 5], "key 'evaluation.cutoffs': found [5, 5]; expected each cut-off once"),
        (
            ("evaluation", "metric"),
            "auc",
            "key 'evaluation.metric': found 'auc'; input should be 'recall', 'precision'",
        ),
        (
            ("evaluation", "slice_tolerance"),
            1,
            "key 'evaluation.slice_tolerance': found 1; input should be less than 1",
        ),
        (
            ("evaluation", "item_slices"),
            "price",
            "evaluation.item_slices: found 'price', expected a feature of kind cat",
        ),
        (("evaluation", "user_slices"), ["shoe"], "evaluation.user_slices: found 'shoe', expected a feature of kind"),
        (("serving", "index"), "faiss", "key 'serving.index': found 'faiss'; input should be 'scann' or 'portable'"),
    ],
)
def test_wrong_value_is_named_with_what_was_expected(path: tuple[str | int, ...], value: object, expected: str) -> None:
    raw = valid()
    at(raw, *path[:-1])[path[-1]] = value
    assert expected in error(raw)


REQUIRED = [
    ("name",), ("interactions",), ("split",), ("interactions", "path"), ("interactions", "user"),
    ("interactions", "item"), ("interactions", "time"), ("interactions", "drop", 0, "column"),
    ("interactions", "drop", 0, "reason"), ("users", "id"), ("items", "id"),
    ("items", "features", "image", "size"), ("items", "features", "listed", "part"), ("context", "hour", "part"),
    ("split", "test_from"), ("evaluation", "candidates", 0, "name"), ("evaluation", "candidates", 0, "min_users"),
]  # fmt: skip


@pytest.mark.parametrize("path", REQUIRED, ids=lambda p: ".".join(map(str, p)))
def test_missing_key_is_named(path: tuple[str | int, ...]) -> None:
    raw = valid()
    del at(raw, *path[:-1])[path[-1]]
    assert f"missing key '{'.'.join(map(str, path))}': found " in error(raw)


def test_missing_key_names_the_key_that_is_nearly_it() -> None:
    raw = valid()
    raw["interactions"]["users"] = raw["interactions"].pop("user")
    assert "missing key 'interactions.user': found 'users'" in error(raw)


def test_all_faults_stand_in_one_line() -> None:
    raw = valid()
    raw["sead"] = 1
    del raw["items"]["id"]
    message = error(raw)
    assert "'sead'" in message
    assert "'items.id'" in message


@pytest.mark.parametrize(
    ("section", "kind", "expected"),
    [
        ("items", "numeric", "key 'items.features.f.kind': found 'numeric', expected one of category, number, text, "
         "vector, sequence, time; did you mean 'number'?"),
        ("items", ["text"], "key 'items.features.f.kind': found ['text'], expected one of category"),
        ("items", None, "key 'items.features.f.kind': found None, expected one of category"),
        ("context", "number", "key 'context.f.kind': found 'number', expected one of category, time"),
        ("context", None, "key 'context.f.kind': found None, expected one of category, time"),
    ],
)  # fmt: skip
def test_unknown_kind_of_feature(section: str, kind: object, expected: str) -> None:
    raw = valid()
    features = raw["context"] if section == "context" else raw["items"]["features"]
    features["f"] = {"kind": kind} if kind else {}
    assert expected in error(raw)


@pytest.mark.parametrize(
    ("section", "model", "expected"),
    [
        ("retrieval", "lightgnn", "key 'retrieval.model': found 'lightgnn', expected one of two_tower, popularity, "
         "item_cosine, svd, als, mf, nmf, ease, lightgcn, ultragcn, pinsage, graph_tower; did you mean 'lightgcn'?"),
        ("retrieval", "bert", "key 'retrieval.model': found 'bert', expected one of two_tower"),
        ("retrieval", ["als"], "key 'retrieval.model': found ['als'], expected one of two_tower"),
        ("retrieval", None, "key 'retrieval.model': found None, expected one of two_tower"),
        ("ranking", "neumv", "key 'ranking.model': found 'neumv', expected one of multi_task, neumf; did you mean"),
    ],
)  # fmt: skip
def test_unknown_model(section: str, model: object, expected: str) -> None:
    assert expected in error(valid() | {section: {"model": model}})


@pytest.mark.parametrize(
    ("retrieval", "expected"),
    [
        ({"model": "als", "tower_units": [8]}, "unknown key 'retrieval.tower_units': expected one of confidence, fac"),
        ({"model": "als", "iteration": 3}, "unknown key 'retrieval.iteration': did you mean 'iterations'?"),
        ({"factors": 3}, "unknown key 'retrieval.factors': "),
        ({"model": "popularity", "history_length": 3}, "unknown key 'retrieval.history_length': expected one of model"),
        ({"model": "ease", "max_items": 0}, "key 'retrieval.max_items': found 0; input should be greater than 0"),
        ("als", "key 'retrieval': found 'als'; input should be"),
    ],
)
def test_a_model_has_its_own_keys(retrieval: object, expected: str) -> None:
    assert expected in error(valid() | {"retrieval": retrieval})


def test_a_model_is_read_with_its_keys_and_the_default_is_two_towers() -> None:
    found = parsed(valid() | {"retrieval": {"model": "als", "factors": 8}})
    assert (found.retrieval.model, found.retrieval.history_length) == ("als", 2048)
    assert spec.Spec.model_validate_json(found.model_dump_json()) == found
    assert parsed(valid()).retrieval == parsed(valid() | {"retrieval": {}}).retrieval
    assert parsed(valid()).retrieval.model == "two_tower"


@pytest.mark.parametrize(
    "source", [{}, {"path": "a.csv", "from": "interactions", "duplicates": "last"}], ids=["none", "two"]
)
def test_table_has_exactly_one_source(source: dict[str, str]) -> None:
    raw = valid() | {"users": {"id": "who", **source}}
    assert "key 'users': found {" in error(raw)
    assert "expected exactly one of the keys 'path' and 'from'" in error(raw)


@pytest.mark.parametrize(
    "extra", [{}, {"duplicates": "last", "drop": [{"column": "c", "missing": True, "reason": "r"}]}]
)
def test_table_from_interactions_repeats_ids_and_has_no_rules(extra: dict[str, Any]) -> None:
    raw = valid() | {"users": {"id": "who", "from": "interactions", **extra}}
    assert "expected 'duplicates: last' and no 'drop'" in error(raw)


CONDITIONS = {"missing": True, "below": 1.0, "above": 9.0, "equals": ["a"], "starts_with": "C"}


@pytest.mark.parametrize("names", [(), *itertools.combinations(CONDITIONS, 2), tuple(CONDITIONS)], ids=str)
def test_drop_rule_has_exactly_one_condition(names: tuple[str, ...]) -> None:
    raw = valid()
    raw["interactions"]["drop"] = [{"column": "c", "reason": "r", **{name: CONDITIONS[name] for name in names}}]
    expected = f"expected exactly one of missing, below, above, equals, starts_with; found {list(names) or 'none'}"
    assert "key 'interactions.drop.0': found {'column': 'c'" in error(raw)
    assert expected in error(raw)


@pytest.mark.parametrize("name", CONDITIONS)
def test_drop_rule_with_one_condition_is_read(name: str) -> None:
    raw = valid()
    raw["interactions"]["drop"] = [{"column": "c", "reason": "r", name: CONDITIONS[name]}]
    value = getattr(parsed(raw).interactions.drop[0], name)
    assert value == (tuple(CONDITIONS[name]) if name == "equals" else CONDITIONS[name])  # type: ignore[arg-type]


def test_missing_false_is_no_condition() -> None:
    raw = valid()
    raw["interactions"]["drop"] = [{"column": "c", "reason": "r", "missing": False}]
    assert "key 'interactions.drop.0.missing': found False; input should be True" in error(raw)


@pytest.mark.parametrize("name", ["id", "key"])
def test_feature_may_not_take_the_name_of_the_tables_id(name: str) -> None:
    raw = valid()
    raw["items"]["features"][name] = {"kind": "category"}
    assert "key 'items': found" in error(raw)
    assert f"the feature name '{name}' is taken by the table's own id; expected another name" in error(raw)


def test_feature_may_not_take_the_name_of_anothers_buckets() -> None:
    raw = valid()
    raw["items"]["features"]["price_bucket"] = {"kind": "category"}
    assert "the feature name 'price_bucket' is taken by the buckets of 'price'" in error(raw)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [shop", "not valid YAML: "),
        ("name: a\n\tseed: 1", "not valid YAML: "),
        ("name: a\nname: b", "not valid YAML: the key 'name' twice in \"<unicode string>\", line 2, column 1"),
        ("", "expected a mapping of keys such as name, interactions, split; found NoneType"),
        ("- name", "expected a mapping of keys such as name, interactions, split; found list"),
        ("shop", "expected a mapping of keys such as name, interactions, split; found str"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML: could not determine a constructor"),
    ],
)
def test_file_that_is_no_spec(text: str, expected: str) -> None:
    assert expected in error(text)


def test_key_that_is_no_text() -> None:
    assert "key '1': found 1; keys should be strings" in error(valid() | {1: "x"})


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot read the spec: .*No such file"):
        spec.load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.yaml: cannot read the spec: 'utf-8'"):
        spec.load(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2017-12-01", dt.datetime(2017, 12, 1, tzinfo=dt.UTC)),
        ("'2017-12-01'", dt.datetime(2017, 12, 1, tzinfo=dt.UTC)),
        ("2017-12-01 06:30:00", dt.datetime(2017, 12, 1, 6, 30, tzinfo=dt.UTC)),
        ("2017-12-01T06:30:00Z", dt.datetime(2017, 12, 1, 6, 30, tzinfo=dt.UTC)),
        ("2017-12-01T06:30:00+02:00", dt.datetime(2017, 12, 1, 4, 30, tzinfo=dt.UTC)),
        ("'2017-12-01T06:30:00-05:00'", dt.datetime(2017, 12, 1, 11, 30, tzinfo=dt.UTC)),
    ],
)
def test_split_takes_dates_and_times_with_and_without_zone(written: str, moment: dt.datetime) -> None:
    text = yaml.safe_dump(valid(), sort_keys=False).replace("test_from: '2017-12-01'", f"test_from: {written}")
    found = spec.parse(text, where="shop.yaml", base=Path("/base")).split
    assert isinstance(found, spec.TimeSplit)
    assert found.start == int(moment.timestamp())
    assert found.end == found.start + 31 * 86_400
    assert found.model_copy(update={"test_days": None}).end is None


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ({"kind": "random"}, "key 'split.kind': found 'random', expected one of time, leave_last_out, given, rolling"),
        (
            {"kind": "leave_one_out"},
            "expected one of time, leave_last_out, given, rolling; did you mean 'leave_last_out'?",
        ),
        ({"kind": "leave_last_out", "test_from": "2017-12-01"}, "unknown key 'split.test_from': expected one of kind"),
        ({"kind": "given"}, "missing key 'split.test': found {'kind': 'given'}"),
        ({"kind": "given", "test": ""}, "key 'split.test': found ''; string should have at least 1 character"),
        ({}, "missing key 'split.test_from': found {"),
        ("given", "key 'split': found 'given'; input should be"),
    ],
)
def test_a_split_has_its_own_keys(split: object, expected: str) -> None:
    assert expected in error(valid() | {"split": split})


def test_a_given_test_is_a_table_like_the_interactions() -> None:
    found = parsed(valid() | {"split": {"kind": "given", "test": "later.csv"}})
    assert found.test_interactions == found.interactions.model_copy(update={"path": "/base/later.csv"})
    assert spec.Spec.model_validate_json(found.model_dump_json(by_alias=True)) == found
    assert parsed(valid()).test_interactions is None
    assert parsed(valid()).split == parsed(valid() | {"split": {"kind": "time", **valid()["split"]}}).split


def test_given_paths_replace_the_specs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = spec.parse(
        yaml.safe_dump(valid(), sort_keys=False),
        where="shop.yaml",
        base=Path("/base"),
        paths={"interactions": "e.csv", "items": "/i.csv"},
    )
    assert found.interactions.path == str(tmp_path / "e.csv")
    assert found.items is not None
    assert found.items.path == "/i.csv"


def test_path_for_a_section_that_is_not_there() -> None:
    raw = valid()
    del raw["users"]
    assert "a path was given for 'users', which the spec does not have" in error(raw, paths={"users": "u.csv"})


def test_path_for_a_table_from_interactions() -> None:
    assert "expected exactly one of the keys 'path' and 'from'" in error(valid(), paths={"users": "u.csv"})


def test_files_of_a_source(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c[1].csv", "deep/d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "e.csv").mkdir()

    def files(pattern: str) -> list[str]:
        return [str(file.relative_to(tmp_path)) for file in spec.Source(path=str(tmp_path / pattern)).files()]

    assert files("*.csv") == ["a.csv", "b.csv", "c[1].csv"]
    assert files("**/*.csv") == ["a.csv", "b.csv", "c[1].csv", "deep/d.csv"]
    assert files("c[1].csv") == ["c[1].csv"]
    with pytest.raises(InputError, match=r"none\.csv: no such file; expected a CSV, Parquet or TFRecord file, or a gl"):
        files("none.csv")
    with pytest.raises(InputError, match=r"/deep: no such file"):
        files("deep")


@pytest.mark.parametrize(
    ("name", "known"),
    [("a.csv", "csv"), ("a.csv.gz", "csv"), ("a.parquet", "parquet"), ("a.tfrecord", "tfrecord"),
     ("a.tfrecord.gz", "tfrecord"), ("part-0.of.2.tfrecords", "tfrecord")],
)  # fmt: skip
def test_format_comes_from_the_ending(name: str, known: str) -> None:
    assert spec.Source(path=name).file_format(Path(name)) == known


def test_format_of_the_spec_wins_and_an_unknown_ending_needs_it() -> None:
    assert spec.Source(path="a.txt", format="csv").file_format(Path("a.txt")) == "csv"
    assert spec.Source(path="a.csv", format="parquet").file_format(Path("a.csv")) == "parquet"
    for name in ("a.txt", "a", "a.gz"):
        with pytest.raises(InputError, match=f"^{name}: unknown ending; expected one of .csv, .parquet"):
            spec.Source(path=name).file_format(Path(name))


def test_a_time_in_the_context_has_no_column() -> None:
    text = (
        "name: tiny\ninteractions: {path: p.csv, user: u, item: i, time: t}\nsplit: {test_from: 2024-01-15}\n"
        "context: {hour: {kind: time, part: hour, column: t}}\n"
    )
    with pytest.raises(InputError, match=r"context\.hour: found column 't', expected none"):
        spec.parse(text, where="spec.yaml", base=Path())
