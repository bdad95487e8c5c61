"""What a run pushed: the servables of a version that answer together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from twotower.features.errors import InputError
from twotower.features.spec import Spec
from twotower.pipeline import servable_folders
from twotower.serving import servable


@dataclass(frozen=True)
class Pushed:
    """A version that can be asked.

    Attributes:
        spec: of the shop, as the version was trained.
        version: its number.
        models: folders of the composed servable, or of the first stage and the second.
    """

    spec: Spec
    version: int
    models: tuple[Path, ...]


def pushed(serving: Path, version: int | None = None) -> Pushed:
    """A version under ``serving``, a run's folder of servables; the newest one unless said.

    Raises:
        InputError: nothing, or not this version, was pushed there.
    """
    found = {
        int(folder.name): folder for parent in sorted(serving.glob("*")) for folder in servable_folders.versions(parent)
    }
    if not found:
        raise InputError(f"{serving}: found no pushed version; expected the folder of a run that was blessed")
    number = max(found) if version is None else version
    if number not in found:
        known = ", ".join(map(str, sorted(found)))
        raise InputError(f"{serving}: found no version {number}, expected one of {known}")
    spec = Spec.model_validate(servable.card(found[number])["spec"])
    folders = {name: serving / folder / str(number) for name, folder in servable_folders.folders(spec.serving).items()}
    models = servable_folders.asked_of(spec.serving, folders, spec.serving.index)
    missing = [folder for folder in models if not folder.is_dir()]
    if missing:
        raise InputError(f"{missing[0]}: no such folder; version {number} needs it beside {models[0].parent.name}")
    return Pushed(spec, number, tuple(models))
