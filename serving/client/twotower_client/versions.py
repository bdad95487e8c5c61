"""Which version of the model a request asks for: the server's own choice, a number, or a label."""

from __future__ import annotations

from typing import TypeAlias

from . import wire_pb2 as wire
from .errors import InvalidRequestError

#: A version's number, a version's label, or None for the newest, as TensorFlow Serving has it.
VersionChoice: TypeAlias = "int | str | None"


def version_choice(version: int | None, label: str | None) -> VersionChoice:
    """Return the one that is given.

    Raises:
        InvalidRequestError: both are, or one is not of its type.
    """
    if version is not None and label is not None:
        raise InvalidRequestError(f"version, label: expected one of them, found version {version} and label {label!r}")
    if version is not None and (isinstance(version, bool) or not isinstance(version, int) or version < 0):
        raise InvalidRequestError(f"version: expected a whole number, found {version!r}")
    if label is not None and (not isinstance(label, str) or not label):
        raise InvalidRequestError(f"label: expected a version label such as 'stable', found {label!r}")
    return label if version is None else version


def model_spec(name: str, choice: VersionChoice, signature: str = "") -> wire.ModelSpec:
    """Return the ModelSpec of a request."""
    spec = wire.ModelSpec(name=name, signature_name=signature)
    if isinstance(choice, str):
        spec.version_label = choice
    elif choice is not None:
        spec.version.value = choice
    return spec
