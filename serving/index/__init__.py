"""Candidate indexes: the items with the largest dot products with a query, behind one signature."""

from twotower.serving.index.base import Index
from twotower.serving.index.build import EXACT_BELOW, build_index

__all__ = ["EXACT_BELOW", "Index", "build_index"]
