"""The models that a spec can choose, each with its settings; ``retrieval.model`` names one of the union."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import pydantic
from pydantic import Field

from twotower.features.section import Positive, Section

# How ids share the rows of their embedding: not at all, by hashing, or as products of two rows.
IdTable = Literal["full", "hashed", "quotient_remainder"]
# How a query tower reads a history, and how a query's trained dimensions meet an item's.
HistoryEncoding = Literal["mean", "attention", "self_attention"]
Similarity = Literal["dot", "cosine"]


class Distribution(Section):
    """How the processes of a cluster train together; ``TF_CONFIG`` says where they are."""

    strategy: Literal["multi_worker", "parameter_server"]
    shard_mb: float = Field(16.0, gt=0)


class TwoTower(Section):
    """The two towers and their training."""

    model: Literal["two_tower"] = "two_tower"
    embedding_dim: int = Field(64, gt=1)
    tower_units: tuple[Positive, ...] = (128,)
    history_encoder: HistoryEncoding = "mean"
    history_length: Positive = 100
    graph_factors: int = Field(64, ge=0)
    similarity: Similarity = "dot"
    temperature: Annotated[float, Field(gt=0)] | Literal["learned"] = 1.0
    recency_half_life_days: float = Field(30.0, gt=0)
    prior_half_life_days: float = Field(15.0, gt=0)
    event_weight: Literal["pair", "event", "quantity"] = "pair"
    events_per_user: Positive = 4
    logq_correction: bool = True
    uniform_negatives: int = Field(1024, ge=0)
    hard_negatives: float = Field(0.0, ge=0)
    id_dropout: float = Field(0.3, ge=0, lt=1)
    min_id_count: Positive = 5
    id_table: IdTable = "full"
    id_buckets: Positive = 4096
    batch_size: int = Field(1024, gt=1)
    epochs: Positive = 3
    events_per_epoch: Positive = 100_000
    learning_rate: float = Field(0.002, gt=0)
    learning_rate_schedule: Literal["constant", "warmup_cosine"] = "constant"
    validation_days: int = Field(0, ge=0)
    affinity_weight: float = Field(0.3, gt=0, le=1)
    distribution: Distribution | None = None
    warm_start: bool = False
    warm_epochs: Positive | None = None

    @pydantic.model_validator(mode="after")
    def _warm_starts_by_token(self) -> TwoTower:
        if self.warm_start and self.id_table != "full":
            raise ValueError(f"warm_start: ids of an id_table '{self.id_table}' share rows; expected 'full'")
        if self.warm_start and self.validation_days:
            raise ValueError("warm_start: the last model has learnt from these validation_days; expected 0 of them")
        if self.warm_epochs is not None and not self.warm_start:
            raise ValueError("warm_epochs: expected 'warm_start: true' beside it")
        if self.warm_start and self.distribution is not None:
            raise ValueError("warm_start: a cluster starts cold; expected no 'distribution' beside it")
        return self


class _IdModel(Section):
    """A model of who bought what, by ids alone; the query is made of the whole history."""

    history_length: Positive = 2048


class Popularity(Section):
    """How many users bought an item: the same list for everybody."""

    model: Literal["popularity"]
    history_length: ClassVar[int] = 1


class ItemCosine(_IdModel):
    """Cosine of the items' buyers, summed over the history; the similarities at rank ``factors``."""

    model: Literal["item_cosine"]
    factors: Positive = 256


class Svd(_IdModel):
    """Truncated SVD of who bought what, with user and item biases."""

    model: Literal["svd"]
    factors: Positive = 64
    regularization: float = Field(10.0, ge=0)


class Als(_IdModel):
    """Implicit alternating least squares; queries are folded in from the history."""

    model: Literal["als"]
    factors: Positive = 64
    regularization: float = Field(0.05, gt=0)
    confidence: float = Field(3.0, gt=0)
    iterations: Positive = 15


class Mf(Section):
    """Matrix factorisation with biases by log loss; knows users by their id alone."""

    model: Literal["mf"]
    history_length: ClassVar[int] = 1
    factors: Positive = 192
    regularization: float = Field(0.005, ge=0)
    negatives: Positive = 8
    sampled_items: Positive = 128
    batch_size: Positive = 512
    epochs: Positive = 24
    learning_rate: float = Field(0.043, gt=0)


class Nmf(_IdModel):
    """Non-negative matrix factorisation."""

    model: Literal["nmf"]
    factors: Positive = 64
    iterations: Positive = 100


class Ease(_IdModel):
    """EASE's item-item weights over the ``max_items`` most bought items, at rank ``factors``."""

    model: Literal["ease"]
    regularization: float = Field(300.0, gt=0)
    max_items: Positive = 10_000
    factors: Positive = 512


class LightGcn(_IdModel):
    """Embeddings smoothed over the graph of who bought what."""

    model: Literal["lightgcn"]
    factors: Positive = 64
    layers: Positive = 3
    loss: Literal["softmax", "cosine_contrastive"] = "softmax"
    temperature: float = Field(0.1, gt=0)
    margin: float = Field(0.3, ge=0, le=1)
    negative_weight: float = Field(10.0, gt=0)
    regularization: float = Field(1e-4, ge=0)
    sampled_items: Positive = 1024
    batch_size: Positive = 8192
    epochs: Positive = 40
    learning_rate: float = Field(0.03, gt=0)


class UltraGcn(_IdModel):
    """Log loss weighted as endless smoothing over the graph of who bought what would weigh it."""

    model: Literal["ultragcn"]
    factors: Positive = 64
    neighbours: Positive = 10
    constraint_weight: float = Field(0.01, ge=0)
    negatives: Positive = 100
    regularization: float = Field(1e-3, ge=0)
    sampled_items: Positive = 1024
    batch_size: Positive = 64
    epochs: Positive = 60
    learning_rate: float = Field(0.01, gt=0)


class PinSage(_IdModel):
    """Item features convolved over sampled neighbourhoods of the item graph: also for items nobody bought yet."""

    model: Literal["pinsage"]
    factors: Positive = 64
    layers: Positive = 2
    neighbours: Positive = 10
    id_dropout: float = Field(0.5, ge=0, lt=1)
    min_id_count: Positive = 5
    temperature: float = Field(0.1, gt=0)
    prior_weight: float = Field(1.0, ge=0)
    batch_size: Positive = 1024
    epochs: Positive = 5
    learning_rate: float = Field(0.003, gt=0)


class GraphTower(_IdModel):
    """The low frequencies of the graph of who bought what, as two towers of item vectors."""

    model: Literal["graph_tower"]
    factors: Positive = 1024
    user_power: float = Field(0.3, ge=0, le=1)
    item_power: float = Field(0.4, ge=0, le=1)
    output_power: float = Field(0.3, ge=0, le=1)
    spectrum_power: float = Field(0.5, ge=0, le=2)


Retrieval = Annotated[
    TwoTower | Popularity | ItemCosine | Svd | Als | Mf | Nmf | Ease | LightGcn | UltraGcn | PinSage | GraphTower,
    Field(discriminator="model"),
]


class _Ranker(Section):
    """A ranker of retrieved candidates and the user's own items; the horizon and the lists are also its test's."""

    candidates: Positive = 200
    history_length: Positive = 2048
    horizon_days: Positive = 31
    list_size: int = Field(128, gt=1)


class MultiTask(_Ranker):
    """Will it be bought within the horizon, and how many; trained on lists as of past snapshots."""

    model: Literal["multi_task"] = "multi_task"
    snapshots: Positive = 6
    snapshot_days: Positive = 15
    max_lists: Positive = 200_000
    loss: Literal["pointwise", "listwise"] = "pointwise"
    crosses: int = Field(1, ge=0)
    units: tuple[Positive, ...] = (128, 64)
    trees: int = Field(0, ge=0)
    batch_size: Positive = 32
    epochs: Positive = 2
    learning_rate: float = Field(0.002, gt=0)
    quantity_weight: float = Field(0.1, ge=0)


class NeuMf(_Ranker):
    """Neural matrix factorisation of user and item ids."""

    model: Literal["neumf"]
    factors: Positive = 64
    units: tuple[Positive, ...] = Field((16,), min_length=1)
    regularization: float = Field(0.003, ge=0)
    id_dropout: float = Field(0.02, ge=0, lt=1)
    min_id_count: Positive = 2
    negatives: Positive = 8
    sampled_items: Positive = 32
    batch_size: Positive = 4096
    epochs: Positive = 12
    learning_rate: float = Field(0.01, gt=0)


Ranking = Annotated[MultiTask | NeuMf, Field(discriminator="model")]
