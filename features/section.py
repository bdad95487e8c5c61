"""What every section of the spec is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Column = Annotated[str, Field(min_length=1)]
Positive = Annotated[int, Field(gt=0)]
# How vectors are stored where they are served.
Precision = Literal["float32", "int8", "int4"]


class Section(BaseModel):
    """Typed and frozen; refuses keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
