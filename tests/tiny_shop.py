"""A shop small enough to check by hand: raw examples, the real tf.Transform graph over them, and its output files."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.options.pipeline_options import PipelineOptions

from twotower.features import preprocessing, records
from twotower.features.spec import Spec, TimeSplit
from twotower.models.transformed import Transformed

DAY = 86_400
SPEC = Spec.model_validate(
    {
        "name": "tiny",
        "seed": 3,
        "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
        "users": {
            "path": "u.csv",
            "id": "id",
            "features": {
                "town": {"kind": "category"},
                "age": {"kind": "number", "buckets": 2},
                "tastes": {"kind": "sequence", "max_length": 2},
                "face": {"kind": "vector", "size": 2},
                "joined": {"kind": "time", "part": "weekday"},
            },
        },
        "items": {
            "path": "i.csv",
            "id": "id",
            "features": {
                "brand": {"kind": "category"},
                "price": {"kind": "number", "log": True, "buckets": 2},
                "title": {"kind": "text", "hash_buckets": 50, "max_tokens": 3},
                "image": {"kind": "vector", "size": 3},
                "tags": {"kind": "sequence", "max_length": 2},
                "listed": {"kind": "time", "part": "month"},
            },
        },
        "promotions": {"path": "p.csv", "item": "id", "from": "f", "until": "u", "strengths": {"advert": "advert"}},
        "context": {"store": {"kind": "category"}, "hour": {"kind": "time", "part": "hour"}},
        "split": {"test_from": "2017-12-01"},
        "retrieval": {
            "embedding_dim": 6,
            "graph_factors": 2,
            "tower_units": [8],
            "history_length": 3,
            "min_id_count": 1,
        },
        "ranking": {"candidates": 4, "history_length": 5, "units": [8]},
    }
)
assert isinstance(SPEC.split, TimeSplit)
SPLIT = SPEC.split.start
ITEMS: list[dict[str, Any]] = [
    {
        "item_id": [f"i{n}".encode()],
        "item_brand": [b"odd" if n % 2 else b"even"],
        "item_price": [float(n)],
        "item_title": [f"Red tea no. {n}".encode()],
        "item_image": [0.1 * n, -0.2, 1.0],
        "item_tags": [b"new", b"t%d" % (n % 3)],
        "item_listed": [SPLIT - n * 40 * DAY],
    }
    for n in range(9)
] + [
    {
        "item_id": [b"bare"],
        "promotion_start": [SPLIT - 9 * DAY, SPLIT - DAY],
        "promotion_end": [SPLIT - 2 * DAY, SPLIT + DAY],
        "promotion_advert": [0.25, 0.5],
    }
]


def user(name: str, features: dict[str, Any], history: list[tuple[str, float, str]]) -> dict[str, Any]:
    """A raw example: the history is (item, days before the split, store), in time order as ingest leaves it."""
    return {
        "user_id": [name.encode()],
        **features,
        "history_item_id": [item.encode() for item, _, _ in history],
        "history_time": [int(SPLIT - days * DAY) for _, days, _ in history],
        "history_quantity": [1.0] * len(history),
        "context_store": [store.encode() for _, _, store in history],
    }


TASTES = [b"sweet", b"hot"]
FULL = {
    "user_town": [b"Ulm"],
    "user_age": [20.0],
    "user_tastes": TASTES,
    "user_face": [0.5, -1.0],
    "user_joined": [SPLIT - 400 * DAY],
}
# Of u1's baskets one straddles the towers' three latest events, and one the ranker's five.
BASKETS = [("i1", 40, "s1"), ("i2", 40, ""), ("i3", 20, "s1"), ("i4", 10, "s2"), ("i5", 10, "s2"), ("i6", 10, "s2")]
USERS = [
    user("u1", FULL, [*BASKETS, ("i1", 2, "s1")]),
    user("u2", {"user_town": [b"Bonn"], "user_age": [40.0]}, [("i0", 100, "s1")]),
    user("u3", {"user_tastes": [b"hot"]}, []),
    user("u4", {}, [("i7", 9, "s1"), ("gone", 5, "s2"), ("i8", 1, "s2")]),
    user("u5", {"user_face": [2.0, 1.0]}, [("i8", 3, ""), ("i0", 2.5, "s1")]),
]
LABELS = {
    "label_item_id": [b"i2", b"bare", b"i2"],
    "label_time": [SPLIT, SPLIT + DAY, SPLIT + DAY],
    "label_quantity": [1.0, 2.0, 4.0],
}
EVAL = [{**USERS[0], **LABELS}, USERS[2], user("new", FULL, [("i3", 4, "s1")])]


@dataclass(frozen=True)
class Shop:
    """Folders as TFX's Transform leaves them."""

    graph: Path
    examples: Path

    def data(self) -> Transformed:
        return Transformed(SPEC, str(self.graph), str(self.examples))


def parsed(examples: list[dict[str, Any]]) -> dict[str, tf.SparseTensor]:
    types = preprocessing.raw_feature_types(SPEC)
    serialized = [records.serialize(example) for example in examples]
    return tf.io.parse_example(serialized, {name: tf.io.VarLenFeature(kind) for name, kind in types.items()})  # type: ignore[no-any-return]


def build(folder: Path, beam_args: Sequence[str] = ("--direct_running_mode=in_memory",)) -> Shop:
    """Analyse the items and the users, and transform every split."""
    types = preprocessing.raw_feature_types(SPEC)
    metadata = tft.DatasetMetadata.from_feature_spec({name: tf.io.VarLenFeature(kind) for name, kind in types.items()})
    rows = [{name: example.get(name, []) for name in types} for example in [*ITEMS, *USERS]]
    with (
        beam.Pipeline(options=PipelineOptions(list(beam_args))) as pipeline,
        tft_beam.Context(temp_dir=str(folder / "temp")),
    ):
        config = {"spec": SPEC.model_dump_json()}
        data = pipeline | beam.Create(rows)
        # A worker process finds this function by its name, and a function of this file it would not.
        preprocess = functools.partial(preprocessing.preprocessing_fn, custom_config=config)
        transform_fn = (data, metadata) | tft_beam.AnalyzeDataset(preprocess)
        _ = transform_fn | tft_beam.WriteTransformFn(str(folder / "graph"))
    output = tft.TFTransformOutput(str(folder / "graph"))
    for split, examples in {"items": ITEMS[::-1], "train": USERS, "eval": EVAL}.items():
        target = folder / "examples" / f"Split-{split}"
        target.mkdir(parents=True)
        transformed = output.transform_raw_features(parsed(examples))
        columns = {name: tf.RaggedTensor.from_sparse(values).to_list() for name, values in transformed.items()}
        with tf.io.TFRecordWriter(str(target / "part-00000.gz"), options="GZIP") as writer:
            for row in range(len(examples)):
                writer.write(records.serialize({name: column[row] for name, column in columns.items()}))
    return Shop(folder / "graph", folder / "examples")
