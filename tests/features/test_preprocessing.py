"""The real tf.Transform graph on raw examples that can be checked by hand."""

import datetime as dt
import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.options.pipeline_options import PipelineOptions
from hypothesis import given
from hypothesis import strategies as st

from twotower.features import encoding, preprocessing, records
from twotower.features.spec import Spec

SPEC = Spec.model_validate(
    {
        "name": "shop",
        "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
        "users": {
            "path": "u.csv",
            "id": "id",
            "features": {
                "town": {"kind": "category", "min_count": 2},
                "age": {"kind": "number", "buckets": 2},
                "joined": {"kind": "time", "part": "weekday"},
            },
        },
        "items": {
            "path": "i.csv",
            "id": "id",
            "features": {
                "brand": {"kind": "category"},
                "price": {"kind": "number", "log": True, "buckets": 4},
                "title": {"kind": "text", "hash_buckets": 1000, "max_tokens": 3},
                "image": {"kind": "vector", "size": 2},
                "tags": {"kind": "sequence", "min_count": 2},
                "listed": {"kind": "time", "part": "month"},
            },
        },
        "context": {"store": {"kind": "category"}, "hour": {"kind": "time", "part": "hour"}},
        "split": {"test_from": "2017-12-01"},
    }
)


def unix(*date: int) -> int:
    return int(dt.datetime(*date, tzinfo=dt.UTC).timestamp())  # type: ignore[arg-type,misc]


PRICES = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
ITEMS: list[dict[str, Any]] = [
    {"item_id": [f"i{n}".encode()], "item_price": [price]} for n, price in enumerate(PRICES)
] + [
    {
        "item_id": ["\u4e2d\u6587".encode()],
        "item_brand": [b"b"],
        "item_title": ["Gr\u00dcne  T\u00e9e-Kanne, 2 Liter!".encode()],
        "item_image": [0.5, -1.0],
        "item_tags": [b"x", b"rare", b"y", b"x"],
        "item_listed": [unix(2016, 2, 29, 23, 59, 59)],
    },
    {"item_id": [b"bare"]},
    {"item_id": [b"y"], "item_brand": [b"a"], "item_tags": [b"y"]},
]
USERS: list[dict[str, Any]] = [
    {
        "user_id": [b"u1"],
        "user_town": [b"Ulm"],
        "user_age": [20.0],
        "user_joined": [unix(2017, 12, 1)],
        "history_item_id": [b"i1", b"gone", b"i1"],
        "history_time": [5, 6, 7],
        "history_quantity": [1.0, 2.0, 1.5],
        "context_store": [b"s1", b"", b"s2"],
    },
    {"user_id": [b"u2"], "user_town": [b"Ulm"], "user_age": [40.0], "history_item_id": [b"i2"], "history_time": [-9]},
    {"user_id": [b"u3"], "user_town": [b"once"]},
]


def parsed(examples: list[dict[str, Any]]) -> dict[str, tf.SparseTensor]:
    types = preprocessing.raw_feature_types(SPEC)
    serialized = [records.serialize(example) for example in examples]
    found: dict[str, tf.SparseTensor] = tf.io.parse_example(
        serialized, {name: tf.io.VarLenFeature(kind) for name, kind in types.items()}
    )
    return found


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> tft.TFTransformOutput:
    """What Transform leaves behind after analysing the items and the users."""
    folder = tmp_path_factory.mktemp("transform")
    types = preprocessing.raw_feature_types(SPEC)
    metadata = tft.DatasetMetadata.from_feature_spec({name: tf.io.VarLenFeature(kind) for name, kind in types.items()})
    rows = [{name: example.get(name, []) for name in types} for example in [*ITEMS, *USERS]]
    options = PipelineOptions(["--direct_running_mode=in_memory"])
    with beam.Pipeline(options=options) as pipeline, tft_beam.Context(temp_dir=str(folder / "temp")):
        config = {"spec": SPEC.model_dump_json()}
        data = pipeline | beam.Create(rows)
        transform_fn = (data, metadata) | tft_beam.AnalyzeDataset(
            lambda inputs: preprocessing.preprocessing_fn(inputs, config)
        )
        _ = transform_fn | tft_beam.WriteTransformFn(str(folder / "out"))
    return tft.TFTransformOutput(str(folder / "out"))


@pytest.fixture(scope="module")
def items(output: tft.TFTransformOutput) -> dict[str, list[list[Any]]]:
    return rows_of(output.transform_raw_features(parsed(ITEMS)))


@pytest.fixture(scope="module")
def users(output: tft.TFTransformOutput) -> dict[str, list[list[Any]]]:
    return rows_of(output.transform_raw_features(parsed(USERS)))


def rows_of(transformed: Mapping[str, tf.SparseTensor]) -> dict[str, list[list[Any]]]:
    """Each feature's values example by example."""
    return {name: tf.RaggedTensor.from_sparse(value).to_list() for name, value in transformed.items()}


def vocabulary(output: tft.TFTransformOutput, name: str) -> list[str]:
    return [value.decode() for value in output.vocabulary_by_name(name)]


def test_the_catalogue_is_the_item_vocabulary(output: tft.TFTransformOutput, items: dict[str, list[list[Any]]]) -> None:
    words = vocabulary(output, preprocessing.ITEM_VOCABULARY)
    assert sorted(words) == sorted(example["item_id"][0].decode() for example in ITEMS)
    assert output.vocabulary_size_by_name(preprocessing.ITEM_VOCABULARY) == len(ITEMS)
    assert [words[row[0]] for row in items["item_id"]] == [example["item_id"][0].decode() for example in ITEMS]


def test_histories_are_looked_up_in_the_catalogue_and_never_added_to_it(
    output: tft.TFTransformOutput, users: dict[str, list[list[Any]]]
) -> None:
    words = vocabulary(output, preprocessing.ITEM_VOCABULARY)
    i1, i2, unknown = words.index("i1"), words.index("i2"), len(words)
    assert users["history_item_id"] == [[i1, unknown, i1], [i2], []]
    assert users["history_time"] == [[5, 6, 7], [-9], []]
    assert users["history_quantity"] == [[1.0, 2.0, 1.5], [], []]
    assert users["label_item_id"] == [[], [], []]


def test_user_ids_have_a_vocabulary_of_their_own(
    output: tft.TFTransformOutput, users: dict[str, list[list[Any]]]
) -> None:
    words = vocabulary(output, preprocessing.USER_VOCABULARY)
    assert sorted(words) == ["u1", "u2", "u3"]
    assert [words[row[0]] for row in users["user_id"]] == ["u1", "u2", "u3"]
    assert users["user_key"] == [[b"u1"], [b"u2"], [b"u3"]]
    unknown = rows_of(output.transform_raw_features(parsed([{"user_id": [b"nobody"]}])))
    assert unknown["user_id"] == [[3]]


def test_categories_below_min_count_are_out_of_vocabulary(
    output: tft.TFTransformOutput, users: dict[str, list[list[Any]]], items: dict[str, list[list[Any]]]
) -> None:
    assert vocabulary(output, "user_town") == ["Ulm"]
    assert users["user_town"] == [[0], [0], [1]]
    words = vocabulary(output, "item_brand")
    assert sorted(words) == ["a", "b"]
    assert items["item_brand"] == [[]] * 8 + [[words.index("b")], [], [words.index("a")]]


def test_sequence_keeps_its_order_and_its_unknown_labels(
    output: tft.TFTransformOutput, items: dict[str, list[list[Any]]]
) -> None:
    words = vocabulary(output, "item_tags")
    assert sorted(words) == ["x", "y"]
    x, y = words.index("x"), words.index("y")
    assert items["item_tags"] == [[]] * 8 + [[x, 2, y, x], [], [y]]


def test_context_labels_stay_beside_their_events(
    output: tft.TFTransformOutput, users: dict[str, list[list[Any]]]
) -> None:
    words = vocabulary(output, "context_store")
    assert sorted(words) == ["s1", "s2"]
    # A missing label, empty in the raw example, is the unknown one: the column is as long as the history.
    assert users["context_store"] == [[words.index("s1"), 2, words.index("s2")], [], []]


def test_numbers_are_standardised(users: dict[str, list[list[Any]]], items: dict[str, list[list[Any]]]) -> None:
    assert users["user_age"] == [[-1.0], [1.0], []]
    logs = [math.log1p(price) for price in PRICES]
    mean, deviation = statistics.fmean(logs), statistics.pstdev(logs)
    assert items["item_price"][8:] == [[], [], []]
    for row, value in zip(items["item_price"], logs, strict=False):
        assert row == [pytest.approx((value - mean) / deviation, abs=1e-5)]


def test_numbers_are_bucketed_by_quantile(
    output: tft.TFTransformOutput, users: dict[str, list[list[Any]]], items: dict[str, list[list[Any]]]
) -> None:
    assert users["user_age_bucket"] == [[0], [1], []]
    assert items["item_price_bucket"] == [[0], [0], [1], [1], [2], [2], [3], [3], [], [], []]
    far = rows_of(output.transform_raw_features(parsed([{"item_price": [-5.0]}, {"item_price": [1e9]}])))
    assert far["item_price_bucket"] == [[0], [3]]
    assert far["item_price"][0] == items["item_price"][0]  # log1p of a price below 0 is that of 0


def test_text_is_cut_into_hashed_words(items: dict[str, list[list[Any]]]) -> None:
    words = ["gr\u00fcne", "t\u00e9e", "kanne"]
    hashed = tf.strings.to_hash_bucket_fast(words, 1000).numpy().tolist()
    assert items["item_title"] == [[]] * 8 + [hashed, [], []]


def test_vectors_and_times(users: dict[str, list[list[Any]]], items: dict[str, list[list[Any]]]) -> None:
    assert items["item_image"] == [[]] * 8 + [[0.5, -1.0], [], []]
    assert items["item_listed"] == [[]] * 8 + [[1], [], []]  # February
    assert users["user_joined"] == [[4], [], []]  # a Friday


def test_an_example_without_features_is_empty_everywhere(output: tft.TFTransformOutput) -> None:
    empty = rows_of(output.transform_raw_features(parsed([{}, {"user_id": [b"u1"]}])))
    assert set(empty) == set(output.transformed_feature_spec())
    assert all(value[0] == [] for value in empty.values())
    assert all(value[1] == [] for name, value in empty.items() if name not in ("user_id", "user_key"))


def test_outputs_are_the_encodings(output: tft.TFTransformOutput, items: dict[str, list[list[Any]]]) -> None:
    sizes = {key: output.vocabulary_size_by_name(key) for key in encoding.vocabulary_keys(SPEC)}
    assert sizes == {"user_town": 1, "item_brand": 2, "item_tags": 2, "context_store": 2}
    found = output.transformed_feature_spec()
    groups = {"user": SPEC.user_features, "item": SPEC.item_features}
    expected = [e for prefix, features in groups.items() for e in encoding.encodings(prefix, features, sizes)]
    own = {"user_id", "user_key", "item_id", "context_store"}
    assert {name for name in found if name.startswith(("user_", "item_", "context_"))} - own == {
        e.name for e in expected
    }
    for e in expected:
        kind = tf.float32 if e.form in ("number", "vector") else tf.int64
        assert found[e.name].dtype == kind, e
        if e.form in ("index", "indices") and e.name in items:
            assert all(0 <= index < e.size for row in items[e.name] for index in row), e


def test_user_features_alone_are_enough_for_the_graph(
    output: tft.TFTransformOutput, users: dict[str, list[list[Any]]]
) -> None:
    raw = {name: value for name, value in parsed(USERS).items() if not name.startswith(("item_", "label_"))}
    found = rows_of(output.transform_raw_features(raw, drop_unused_features=True))
    assert set(found) == {name for name in users if not name.startswith(("item_", "label_"))}
    assert found == {name: users[name] for name in found}


def test_item_features_alone_are_enough_for_the_graph(
    output: tft.TFTransformOutput, items: dict[str, list[list[Any]]]
) -> None:
    raw = {name: value for name, value in parsed(ITEMS).items() if name.startswith("item_")}
    found = rows_of(output.transform_raw_features(raw, drop_unused_features=True))
    assert found == {name: items[name] for name in items if name.startswith("item_")}


def test_graph_survives_export(
    output: tft.TFTransformOutput, users: dict[str, list[list[Any]]], tmp_path: Path
) -> None:
    module = tf.Module()
    module.layer = output.transform_features_layer()
    names = [name for name in parsed(USERS) if not name.startswith(("item_", "label_"))]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def transform(examples: tf.Tensor) -> dict[str, tf.SparseTensor]:
        types = preprocessing.raw_feature_types(SPEC)
        found = module.layer(tf.io.parse_example(examples, {name: tf.io.VarLenFeature(types[name]) for name in names}))
        return {
            name: tf.RaggedTensor.from_sparse(found[name]).to_tensor(-1) for name in ("history_item_id", "user_town")
        }

    module.transform = transform
    tf.saved_model.save(module, str(tmp_path / "model"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    found = loaded.transform(tf.constant([records.serialize(example) for example in USERS]))
    padded = [row + [-1] * (3 - len(row)) for row in users["history_item_id"]]
    assert found["history_item_id"].numpy().tolist() == padded
    assert found["user_town"].numpy().tolist() == users["user_town"]


def test_raw_types() -> None:
    types = preprocessing.raw_feature_types(SPEC)
    assert types["item_price"] == types["item_image"] == types["history_quantity"] == tf.float32
    assert types["item_listed"] == types["user_joined"] == types["label_time"] == tf.int64
    assert types["item_title"] == types["item_tags"] == types["context_store"] == types["user_id"] == tf.string
    assert "context_hour" not in types  # computed from the event's own time


KNOWN = [
    ((1970, 1, 1), 0, 3, 0),
    ((1969, 12, 31, 23, 59, 59), 23, 2, 11),
    ((1900, 2, 28, 1), 1, 2, 1),
    ((1900, 3, 1), 0, 3, 2),
    ((2000, 2, 29, 12), 12, 1, 1),
    ((2016, 12, 31, 18, 5), 18, 5, 11),
    ((2017, 1, 1), 0, 6, 0),
    ((2100, 3, 1, 7), 7, 0, 2),
]


@pytest.mark.parametrize(("date", "hour", "weekday", "month"), KNOWN)
def test_parts_of_known_dates(date: tuple[int, ...], hour: int, weekday: int, month: int) -> None:
    second = tf.constant([unix(*date)], tf.int64)
    parts = [preprocessing.time_part(second, part).numpy().tolist() for part in ("hour", "weekday", "month")]
    assert parts == [[hour], [weekday], [month]]


@given(st.lists(st.datetimes(dt.datetime(1600, 1, 1), dt.datetime(2400, 1, 1)), min_size=50, max_size=100))
def test_parts_agree_with_the_calendar(moments: list[dt.datetime]) -> None:
    epoch = dt.datetime(1970, 1, 1)
    seconds = tf.constant([(moment - epoch) // dt.timedelta(seconds=1) for moment in moments], tf.int64)
    assert preprocessing.time_part(seconds, "hour").numpy().tolist() == [m.hour for m in moments]
    assert preprocessing.time_part(seconds, "weekday").numpy().tolist() == [m.weekday() for m in moments]
    assert preprocessing.time_part(seconds, "month").numpy().tolist() == [m.month - 1 for m in moments]


def test_every_day_of_a_leap_century() -> None:
    days = [dt.date(1996, 1, 1) + dt.timedelta(days=n) for n in range(366 * 9)]
    seconds = tf.constant([(day - dt.date(1970, 1, 1)).days * 86_400 for day in days], tf.int64)
    assert preprocessing.time_part(seconds, "month").numpy().tolist() == [day.month - 1 for day in days]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Red TEA", ["red", "tea"]),
        ("\u00c9T\u00c9 \u0416\u0423\u041a \u4e2d\u6587", ["\u00e9t\u00e9", "\u0436\u0443\u043a", "\u4e2d\u6587"]),
        ("a-b_c/d.e", ["a", "b", "c"]),
        ("  12\"  x 3 ", ["12", "x", "3"]),
        ("", []),
        ("!? \t\n", []),
    ],
)  # fmt: skip
def test_tokens(text: str, words: list[str]) -> None:
    found = preprocessing.tokenize(tf.constant([text, "end"]), 512, 3).to_list()
    hashes = tf.strings.to_hash_bucket_fast(tf.constant([*words, "end"]), 512).numpy().tolist()
    assert found == [hashes[:-1], hashes[-1:]]
