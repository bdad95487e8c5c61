"""The business rules that a spec offers, made from what the shop knows of its items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from twotower.features.spec import NumberFeature, Spec
from twotower.serving.attributes import LabelAttribute, NumberAttribute
from twotower.serving.filters import AllowList, Filter, LabelFilter, RangeFilter
from twotower.serving.item_ids import ItemIds


@dataclass(frozen=True)
class Rules:
    """What requests may ask for.

    Attributes:
        filters: of the items that may come back.
        caps, boosts: labels that can be capped and boosted, by feature.
        diversity: whether lists can be made diverse.
    """

    filters: tuple[Filter, ...]
    caps: Mapping[str, LabelAttribute]
    boosts: Mapping[str, LabelAttribute]
    diversity: bool

    @classmethod
    def of(cls, spec: Spec, raw: Mapping[str, npt.NDArray[Any]], ids: ItemIds, n_items: int) -> Rules:
        """The rules of ``spec.serving.rules``.

        Args:
            spec: the shop.
            raw: [ids] the items' labels (objects of bytes, empty = missing) and numbers (float32, NaN = missing)
                as the shop gave them, by each feature of ``spec.serving.rules.features``.
            ids: of the items.
            n_items: how many of them can be recommended.
        """
        offered = spec.serving.rules
        attributes: dict[str, Any] = {}
        for name in offered.features:
            number = isinstance(spec.item_features[name], NumberFeature)
            attributes[name] = NumberAttribute(raw[name]) if number else LabelAttribute(raw[name])
        filters: list[Filter] = [AllowList(ids, n_items)] if offered.allow_list else []
        for name in offered.filters:
            attribute = attributes[name]
            numeric = isinstance(attribute, NumberAttribute)
            filters.append(RangeFilter(name, attribute) if numeric else LabelFilter(name, attribute))
        caps, boosts = ({name: attributes[name] for name in names} for names in (offered.caps, offered.boosts))
        return cls(tuple(filters), caps, boosts, offered.diversity)


NO_RULES = Rules((), {}, {}, False)
