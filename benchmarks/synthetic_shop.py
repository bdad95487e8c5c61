"""A shop of any size that nobody had to train: a servable as large and as deep as a trained one, for its speed.

Towers and ranker have random weights, its trees are grown on random labels, and the index holds vectors drawn around
one centre for every 5,000 items, because the vectors of untrained towers have no clusters and an index of them would
probe too much. So its latency means something, and its lists do not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.options.pipeline_options import PipelineOptions

from twotower.features import preprocessing
from twotower.features.spec import Spec
from twotower.features.timelines import Timelines
from twotower.models.boosted_trees import BoostedTrees, grow
from twotower.models.contract import Towers
from twotower.models.exports import RankingExport, TowersExport
from twotower.models.queries import DAY, Queries
from twotower.models.ranking_fit import build_ranker
from twotower.models.ranking_inputs import TrainingLists
from twotower.models.ranking_lists import RankingLists
from twotower.models.retrieval import build_towers
from twotower.models.tables import Catalogue, Users
from twotower.models.training_events import TrainingEvents
from twotower.models.transformed import Transformed
from twotower.serving import servable
from twotower.serving.index import build_index
from twotower.serving.index.base import FloatMatrix
from twotower.serving.index.build import Kind
from twotower.serving.index.export import IndexExport
from twotower.serving.item_ids import ItemIds
from twotower.serving.recommender import Recommender
from twotower.serving.requests import RequestTransform
from twotower.serving.rules import Rules

# Labels by item and user feature: as many as the Complete Journey has.
ITEM_LABELS = {"department": 24, "category": 300, "brand": 2, "manufacturer": 2_000, "package_size": 1_500}
USER_LABELS = {"age": 6, "income": 12, "home": 5, "marital_status": 3, "household": 5, "kids": 4}
USERS, EVENTS, OWN_ITEMS = 1_000, 450, 300
TREE_LISTS = 200
ITEMS_PER_CENTRE = 5_000


@dataclass(frozen=True)
class Shop:
    """What was made.

    Attributes:
        spec: of the shop.
        catalogue: its items, ``i0`` and so on.
        train: its users, each with ``EVENTS`` events of ``OWN_ITEMS`` items.
        labels: of the items, by the feature's name.
    """

    spec: Spec
    catalogue: Catalogue
    train: Users
    labels: Mapping[str, npt.NDArray[np.int64]]

    def request(self, user: int, k: int) -> dict[str, npt.NDArray[Any]]:
        """A request for ``k`` items with the user's whole history, by input name, without what is missing."""
        start, end = self.train.history.offsets[user], self.train.history.offsets[user + 1]
        features = {f"user_{name}": np.array([f"{name} 0".encode()], object) for name in USER_LABELS}
        return {
            "user_id": np.array([f"u{user}".encode()], object),
            **features,
            "history_item_ids": self.catalogue.ids[self.train.history.items[start:end]][np.newaxis],
            "history_times": self.train.history.times[start:end][np.newaxis],
            "k": np.int32(k),
        }


def spec(trees: int, serving: Mapping[str, Any]) -> Spec:
    """Features like the Complete Journey's; about 500 candidates: 200 retrieved and the user's own."""
    category = {"kind": "category"}
    return Spec.model_validate(
        {
            "name": "synthetic",
            "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
            "users": {"path": "u.csv", "id": "id", "features": dict.fromkeys(USER_LABELS, category)},
            "items": {
                "path": "i.csv",
                "id": "id",
                "features": {
                    **dict.fromkeys(ITEM_LABELS, category),
                    "type": {"kind": "text"},
                    "price": {"kind": "number", "log": True},
                },
            },
            "context": {"hour": {"kind": "time", "part": "hour"}, "weekday": {"kind": "time", "part": "weekday"}},
            "split": {"test_from": "2017-12-01"},
            "ranking": {"trees": trees},
            "serving": dict(serving),
        }
    )


def build(folder: Path, items: int, kind: Kind, *, trees: int = 200, serving: Mapping[str, Any] | None = None) -> Shop:
    """Save the servable of a shop with ``items`` items and an index of a kind into ``folder``, which may not exist."""
    shop_spec, random = spec(trees, serving or {}), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        data = _transformed(shop_spec, Path(temporary))
        shop = _shop(shop_spec, data, items, random)
        tf.keras.utils.set_random_seed(1)
        events = TrainingEvents.choose(shop_spec, shop.train, items)
        query, candidate = build_towers(shop_spec, shop.catalogue, shop.train, USERS, events)
        length = shop_spec.retrieval.history_length
        towers = TowersExport(Towers(query, candidate), data.query_encodings, data.item_encodings, length)
        ranker = build_ranker(shop_spec, shop.catalogue, shop.train)
        lists = _lists(shop, ranker.numbers, random)
        ranker.network.standardise_by(lists.numbers.reshape(-1, lists.numbers.shape[2]).astype(np.float32))
        if trees:
            ranker.trees = BoostedTrees(grow(lists, trees, 1))
        ranking = RankingExport(ranker, data.query_encodings)
        for function in (towers.query, towers.candidate, ranking.score):
            function.get_concrete_function()  # creates the weights
        dim = int(towers.query.get_concrete_function().output_shapes[1])
        vectors, tuning = clustered(items, 256, dim)
        index = IndexExport(build_index(vectors, kind, seed=1, queries=tuning))
        loaded: dict[str, tf.Module] = {}
        for name, module in (("towers", towers), ("index", index), ("ranker", ranking)):
            options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
            tf.saved_model.save(module, f"{temporary}/{name}", options=options)
            loaded[name] = servable.load(Path(temporary, name))
        file = Path(temporary, "ids")
        file.write_bytes(b"\n".join(shop.catalogue.ids.tolist()) + b"\n")
        ids, layer = ItemIds(file), data.output.transform_features_layer()
        end = shop_spec.split.start  # type: ignore[union-attr]
        transform = RequestTransform(shop_spec, layer, data.query_encodings, data.item_encodings, items, ids, end)
        raw = {
            name: np.array([b"%s %d" % (name.encode(), label) for label in values], object)
            for name, values in shop.labels.items()
        }
        rules = Rules.of(shop_spec, {**raw, "price": np.arange(items, dtype=np.float32)}, ids, items)
        recommender = Recommender(shop_spec, transform, loaded["towers"], loaded["index"], loaded["ranker"], ids, rules)
        servable.save(recommender, recommender.signatures(), folder, {"name": shop_spec.name})
    return shop


def clustered(items: int, queries: int, dim: int) -> tuple[FloatMatrix, FloatMatrix]:
    """Vectors [items, dim] and [queries, dim] around the same centres."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(max(1, items // ITEMS_PER_CENTRE), dim)).astype(np.float32)
    near = centres[random.integers(len(centres), size=items + queries)]
    near += 0.5 * random.standard_normal(near.shape, np.float32)
    return near[:items], near[items:]


def read(trees: int, items: int, serving: Mapping[str, Any] | None = None) -> Shop:
    """The shop of a servable that ``build`` saved."""
    shop_spec = spec(trees, serving or {})
    with tempfile.TemporaryDirectory() as temporary:
        return _shop(shop_spec, _transformed(shop_spec, Path(temporary)), items, np.random.default_rng(0))


def _transformed(shop_spec: Spec, folder: Path) -> Transformed:
    """Transform's graph over examples that have every label; the items' own ids are not in it."""
    types = preprocessing.raw_feature_types(shop_spec)
    metadata = tft.DatasetMetadata.from_feature_spec({name: tf.io.VarLenFeature(kind) for name, kind in types.items()})
    rows: list[dict[str, Any]] = [{name: [] for name in types} for _ in range(max(ITEM_LABELS.values()))]
    for number, row in enumerate(rows):
        row |= {"item_id": [b"i%d" % number], "item_type": [b"type %d" % (number % 400)], "item_price": [1.0 + number]}
        row |= {f"item_{name}": [f"{name} {number % count}".encode()] for name, count in ITEM_LABELS.items()}
        row |= {f"user_{name}": [f"{name} {number % count}".encode()] for name, count in USER_LABELS.items()}
        row |= {"user_id": [b"u%d" % (number % USERS)]}
    options = PipelineOptions(["--direct_running_mode=in_memory"])
    with beam.Pipeline(options=options) as pipeline, tft_beam.Context(temp_dir=str(folder / "temp")):
        config = {"spec": shop_spec.model_dump_json(by_alias=True)}
        analysed = (pipeline | beam.Create(rows), metadata) | tft_beam.AnalyzeDataset(
            lambda inputs: preprocessing.preprocessing_fn(inputs, config)
        )
        _ = analysed | tft_beam.WriteTransformFn(str(folder / "graph"))
    return Transformed(shop_spec, str(folder / "graph"), "")


def _shop(shop_spec: Spec, data: Transformed, items: int, random: np.random.Generator) -> Shop:
    ids = np.array([b"i%d" % number for number in range(items)], dtype=object)
    features: dict[str, npt.NDArray[np.generic]] = {}
    for encoding in data.item_encodings:
        if encoding.form == "index":
            features[encoding.name] = random.integers(0, encoding.size - 1, items)
        elif encoding.form == "indices":
            features[encoding.name] = random.integers(0, 400, (items, 1)).repeat(2, axis=1)
        else:
            features[encoding.name] = random.normal(size=items).astype(np.float32)
    labels = {name: features[f"item_{name}"].astype(np.int64) for name in ITEM_LABELS}
    end = shop_spec.split.start  # type: ignore[union-attr]
    baskets = random.integers(0, 350, (USERS, 60))
    days = np.sort(np.take_along_axis(baskets, random.integers(0, 60, (USERS, EVENTS)), axis=1), axis=1)
    own = random.integers(0, items, (USERS, OWN_ITEMS))
    bought = np.take_along_axis(own, random.integers(0, OWN_ITEMS, (USERS, EVENTS)), axis=1)
    users = np.repeat(np.arange(USERS), EVENTS)
    times = end - (351 - days.ravel()) * DAY
    ones = np.ones(len(users), np.float32)
    history = Timelines.from_events(users, bought.ravel().astype(np.int32), times, ones, USERS)
    tables = [encoding for encoding in data.query_encodings if encoding.name.startswith("user_")]
    train = Users(
        ids=np.array([b"u%d" % user for user in range(USERS)], object),
        rows=np.arange(USERS),
        features={encoding.name: random.integers(0, encoding.size - 1, USERS) for encoding in tables},
        encodings=data.query_encodings,
        history=history,
        context={},
        labels=history.latest(0),
    )
    return Shop(shop_spec, Catalogue(ids, features, data.item_encodings), train, labels)


def _lists(shop: Shop, numbers: Any, random: np.random.Generator) -> TrainingLists:
    """Lists of own and other items with their numbers, and labels that mean nothing."""
    size, users = shop.spec.ranking.list_size, np.arange(TREE_LISTS)
    history, n_items = shop.train.history, len(shop.catalogue)
    candidates = random.integers(0, n_items, (TREE_LISTS, size)).astype(np.int32)
    for row in users:
        candidates[row, : size // 2] = history.items[history.offsets[row] :][: size // 2]
    asked = Queries(shop.spec, shop.train, n_items).features(
        tf.constant(users),
        tf.constant(history.offsets[users + 1]),
        tf.fill([TREE_LISTS], np.int64(history.times.max() + 1)),
        EVENTS,
    )
    found = numbers(asked, tf.constant(candidates)).numpy().astype(np.float16)
    bought = (random.random((TREE_LISTS, size)) < 0.3).astype(np.float32)
    ones = np.ones_like(bought)
    return TrainingLists(RankingLists(users, users, users, candidates, bought, bought, ones), found)
