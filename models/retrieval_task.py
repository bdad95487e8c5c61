"""What one training of the retrieval model reads and writes: the Trainer's arguments, as every process needs them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import tensorflow as tf

from twotower.features.model_choices import TwoTower
from twotower.features.spec import Spec
from twotower.models.contract import Towers, TrainingData
from twotower.models.exports import TowersExport
from twotower.models.towers import CandidateTower, QueryTower
from twotower.models.transformed import Transformed
from twotower.models.warm_start import FILE as WARM_START_FILE
from twotower.models.warm_start import Base, WarmStart


@dataclass(frozen=True)
class RetrievalTask:
    """Folders and the spec.

    Attributes:
        spec: as JSON.
        graph: folder of Transform's graph.
        examples: folder of the transformed examples.
        run: folder that the training curve is left in.
        model: folder that the model is saved in.
        base: folder of the last blessed model, which a warm start goes on from; None where there is none.
    """

    spec: str
    graph: str
    examples: str
    run: str
    model: str
    base: str | None = None

    @classmethod
    def read(cls, file: Path) -> RetrievalTask:
        """What ``write`` wrote."""
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def write(self, file: Path) -> None:
        """Write to a file, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self)), encoding="utf-8")
        partial.rename(file)

    def parsed(self) -> Spec:
        """The spec."""
        return Spec.model_validate_json(self.spec)

    def data(self, run: str) -> TrainingData:
        """What the model learns from, read into memory; its curve goes to the folder ``run``."""
        spec = self.parsed()
        found = Transformed(spec, self.graph, self.examples)
        warm = None
        if isinstance(spec.retrieval, TwoTower) and spec.retrieval.warm_start:
            warm = WarmStart(found.vocabularies(), Path(self.base) if self.base else None)
        return TrainingData(spec, found.catalogue(), found.users("train"), found.n_users, Path(run), warm)

    def save(self, towers: Towers) -> None:
        """Export the towers over transformed features."""
        spec = self.parsed()
        found = Transformed(spec, self.graph, self.examples)
        if isinstance(spec.retrieval, TwoTower) and spec.retrieval.warm_start:
            assert isinstance(towers.query, QueryTower)
            assert isinstance(towers.candidate, CandidateTower)
            # Before the export, which may store less than what was trained.
            encodings = (*found.query_encodings, *found.item_encodings)
            left = Base.of(towers.query, towers.candidate, spec.retrieval, encodings, found.vocabularies())
            left.save(Path(self.model, WARM_START_FILE))
        length = spec.retrieval.history_length
        export = TowersExport(towers, found.query_encodings, found.item_encodings, length, spec.serving.embeddings)
        tf.saved_model.save(export, self.model)
