"""Warm start of the two towers: the last blessed model's weights, each row of a table with its own token.

A vocabulary is in the order of frequency, which changes with the data: rows are carried by token, never by place.
A token that is new starts where the last model left "unknown", which is what it was to it. The optimizer's moments
are not kept: they belong to a learning rate and to rows that are both different now, and Adam has new ones in a few
steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.encoding import Encoding
from twotower.features.model_choices import TwoTower
from twotower.features.preprocessing import ITEM_VOCABULARY, USER_VOCABULARY
from twotower.models.feature_encoder import FeatureEncoder
from twotower.models.id_embeddings import IdEmbedding
from twotower.models.towers import CandidateTower, QueryTower
from twotower.models.training import progress

FILE = "assets.extra/warm_start.npz"
Vocabularies = Mapping[str, Sequence[bytes]]


@dataclass(frozen=True)
class WarmStart:
    """What a training begins with.

    Attributes:
        vocabularies: this run's tokens in their order: of the users, the items, and each feature that has some.
        folder: the last blessed model's export; None where there is none yet.
    """

    vocabularies: Vocabularies
    folder: Path | None

    def base(self, choice: TwoTower, encodings: Sequence[Encoding]) -> Base | None:
        """The weights to go on from; None, and a line that says why, where there are none that fit."""
        if self.folder is None:
            progress.info("cold start: no earlier model is blessed yet")
            return None
        file = self.folder / FILE
        if not file.is_file():
            progress.info("cold start: the last blessed model is no two towers that a warm start may follow")
            return None
        base = Base.load(file)
        now = architecture(choice, encodings, self.vocabularies)
        for key in sorted(now.keys() | base.architecture.keys()):
            if now.get(key) != base.architecture.get(key):
                progress.info(f"cold start: {key} was {base.architecture.get(key)}, is {now.get(key)}")
                return None
        return base


@dataclass(frozen=True)
class Base:
    """Trained weights as they were left.

    Attributes:
        architecture: of the towers; see ``architecture``.
        widths: of the embeddings of features with a vocabulary, by encoding. They stay, however the vocabularies grow.
        weights: by the variable's path in the towers.
        tokens: of the tables whose rows are tokens and, last, unknown; by the same path.
    """

    architecture: Mapping[str, Any]
    widths: Mapping[str, int]
    weights: Mapping[str, npt.NDArray[np.float32]]
    tokens: Vocabularies

    @classmethod
    def of(
        cls,
        query: QueryTower,
        candidate: CandidateTower,
        choice: TwoTower,
        encodings: Sequence[Encoding],
        vocabularies: Vocabularies,
    ) -> Base:
        """The weights of built towers."""
        variables, tables = _variables(query, candidate), _tables(query, candidate, vocabularies)
        shapes = {table.name: variable.shape[1] for variable, table in _paired(variables, tables).values()}
        return cls(
            architecture(choice, encodings, vocabularies),
            {name: int(width) for name, width in shapes.items() if name in vocabularies},
            {path: variable.numpy() for path, variable in variables.items()},
            {path: table.tokens for path, (_, table) in _paired(variables, tables).items()},
        )

    def carry_into(self, query: QueryTower, candidate: CandidateTower, vocabularies: Vocabularies) -> None:
        """Assign the weights to built towers of the same architecture, and say how many rows came along."""
        variables = _variables(query, candidate)
        tables = {
            path: table for path, (_, table) in _paired(variables, _tables(query, candidate, vocabularies)).items()
        }
        said = {}
        for path, variable in variables.items():
            values = self.weights[path]
            if path in tables:
                before, now = self.tokens[path], tables[path].tokens
                place = {token: row for row, token in enumerate(before)}
                values = values[[*(place.get(token, len(before)) for token in now), len(before)]]
                carried = sum(token in place for token in now)
                rows = f"{carried:,} rows carried, {len(now) - carried:,} new, {len(before) - carried:,} gone"
                said[tables[path].name] = rows
            variable.assign(values)
        progress.info("warm start: " + "; ".join(f"{name} {rows}" for name, rows in said.items()))

    def save(self, file: Path) -> None:
        """Write all of it into one file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        about = json.dumps({"architecture": self.architecture, "widths": self.widths})
        parts: dict[str, Any] = {"about": np.frombuffer(about.encode(), np.uint8)}
        parts |= {f"weights {path}": values for path, values in self.weights.items()}
        # No token of a tf.Transform vocabulary has a line end in it.
        parts |= {f"tokens {path}": np.frombuffer(b"\n".join(tokens), np.uint8) for path, tokens in self.tokens.items()}
        np.savez(file, **parts)

    @classmethod
    def load(cls, file: Path) -> Base:
        """Read what ``save`` wrote."""
        with np.load(file) as read:
            about = json.loads(read["about"].tobytes())
            weights = {name.partition(" ")[2]: read[name] for name in read.files if name.startswith("weights ")}
            tokens = {
                name.partition(" ")[2]: read[name].tobytes().split(b"\n") if len(read[name]) else []
                for name in read.files
                if name.startswith("tokens ")
            }
        return cls(about["architecture"], about["widths"], weights, tokens)


def architecture(choice: TwoTower, encodings: Sequence[Encoding], vocabularies: Vocabularies) -> dict[str, Any]:
    """What two towers must have in common for the weights of one to mean the same in the other."""
    features = {e.name: [e.form, None if e.name in vocabularies else e.size] for e in encodings}
    return {
        "embedding_dim": choice.embedding_dim,
        "tower_units": list(choice.tower_units),
        "history_encoder": choice.history_encoder,
        "similarity": choice.similarity,
        "temperature": choice.temperature,
        "graph_factors": choice.graph_factors > 0,
        **{f"feature {name}": shape for name, shape in features.items()},
    }


@dataclass(frozen=True)
class _Table:
    """A table of embeddings: what it is of, and the tokens of all its rows but the last."""

    name: str
    tokens: Sequence[bytes]


def _tables(query: QueryTower, candidate: CandidateTower, vocabularies: Vocabularies) -> dict[int, _Table]:
    """The tables whose rows are tokens, by the ``id`` of their variable."""
    found = {}
    for part in (*query.submodules, *candidate.submodules):
        if isinstance(part, IdEmbedding):
            tokens = vocabularies[USER_VOCABULARY if part.name == "user_ids" else ITEM_VOCABULARY]
            table = _Table(part.name, [tokens[row] for row in part.known])
            found[id(part.embedding.embeddings)] = table
        elif isinstance(part, FeatureEncoder):
            for name, embedding in part.embeddings.items():
                if name in vocabularies:
                    found[id(embedding.embeddings)] = _Table(name, vocabularies[name])
    return found


def _paired(
    variables: Mapping[str, tf.Variable], tables: Mapping[int, _Table]
) -> dict[str, tuple[tf.Variable, _Table]]:
    return {path: (variable, tables[id(variable)]) for path, variable in variables.items() if id(variable) in tables}


def _variables(query: QueryTower, candidate: CandidateTower) -> dict[str, tf.Variable]:
    """What is trained, by its path from the towers' attributes down."""
    found: dict[str, tf.Variable] = {}
    for name, tower in (("query", query), ("candidate", candidate)):
        trained = {id(variable) for variable in tower.trainable_variables}
        view, seen = tf.train.TrackableView(tower), {id(tower)}
        waiting = [(name, tower)]
        while waiting:
            path, node = waiting.pop(0)
            if id(node) in trained:
                found[path] = node
            for child, below in sorted(view.children(node).items()):
                if id(below) not in seen:
                    seen.add(id(below))
                    waiting.append((f"{path}/{child}", below))
    return found
