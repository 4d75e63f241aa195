"""The plan: how a model is best run for a load, as `stateport tune` found by measuring."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, Final

from .axes import SIZE_LIMIT
from .errors import FileError
from .files.paths import file_beside, opened, usable_path
from .files.reading import read_json
from .files.writing import written_atomically
from .shown import shown

VERSION: Final = 1


@dataclass(frozen=True)
class PlanFile:
    """A file beside the plan, and the SHA-256 of its bytes."""

    name: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> PlanFile:
        """A file as it stands now."""
        return cls(path.name, sha256(path))


@dataclass(frozen=True)
class Plan:
    """How a model is run.

    Attributes:
        model: the SHA-256 of the model's file, which the plan was made for.
        engine: the engine's name.
        threads: how many threads a call may use.
        options: the engine's own options, such as its precision.
        variant: what the plan runs in place of the model, in words; "as exported" for the model.
        whole: the file that is run in place of the model, None for the model itself.
        step: the file that is run where time is 1, None for the same as everything else.
        chunk: the steps per call for which it was measured as the best.
        measured: what was measured, and for which load.
    """

    model: str
    engine: str
    threads: int
    options: Mapping[str, object] = field(default_factory=dict)
    variant: str = "as exported"
    whole: PlanFile | None = None
    step: PlanFile | None = None
    chunk: int = 1
    measured: Mapping[str, object] = field(default_factory=dict)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the plan as JSON; the files that it names stand beside it.

        Raises:
            FileError: it cannot be written.
        """
        with written_atomically(Path(path)) as part:
            text = json.dumps({"version": VERSION, **asdict(self)}, indent=1)
            part.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Plan:
        """Reads a plan.

        Raises:
            FileError: it cannot be read, or is no plan of a version that this stateport knows.
        """
        path = usable_path(path)
        try:
            document = read_json(path)
        except ValueError as error:
            raise FileError(f"{path} is no plan: it is not JSON ({error}).") from error
        try:
            return cls._from(document)
        except ValueError as error:
            raise FileError(
                f"{path} is no plan that this stateport reads ({error}). Write it again with "
                "`stateport tune`."
            ) from error

    @classmethod
    def _from(cls, document: Any) -> Plan:
        version = document.pop("version", None) if isinstance(document, dict) else None
        if type(version) is not int or version != VERSION:
            raise ValueError(f"it has no version {VERSION}")
        known = {field.name for field in fields(cls)}
        for key in sorted({*document} - known):
            raise ValueError(f"it says {shown(key)}, which is not known")
        for key in ("model", "engine", "variant"):
            if not isinstance(document.get(key, ""), str):
                raise ValueError(f"its {key} is {shown(document[key])}; a text was expected")
        for key in ("threads", "chunk"):
            if type(number := document.get(key, 1)) is not int or not 0 < number < SIZE_LIMIT:
                raise ValueError(f"its {key} is {shown(number)}; a number above 0 was expected")
        for key in ("model", "engine", "threads"):
            if key not in document:
                raise ValueError(f"it has no {key}")
        _check_options(document)
        for key in ("whole", "step"):
            document[key] = _plan_file(document.get(key))
        return cls(**document)

    def files(self, model: Path, plan: Path) -> tuple[Path, Path | None]:
        """The files that are run: for everything, and for single steps where that is another.

        Raises:
            FileError: the model is another than the plan was made for, or a file beside the plan
                is not there or has changed.
        """
        if sha256(model) != self.model:
            raise FileError(
                f"{plan} was made for another model than {model}, or the model has changed since. "
                "Run `stateport tune` again."
            )
        whole, step = (_checked(plan, file) for file in (self.whole, self.step))
        return whole or model, step


def _check_options(document: dict[str, Any]) -> None:
    options, measured = document.get("options", {}), document.get("measured", {})
    if not isinstance(options, dict) or not isinstance(measured, dict):
        raise ValueError("its options, or what was measured, are no object")
    for option, value in options.items():
        if not isinstance(value, str | int | float | bool | None):
            raise ValueError(f"its option {shown(option)} is {shown(value)}; a text or a number")


def _plan_file(entry: Any) -> PlanFile | None:
    if entry is None:
        return None
    if not isinstance(entry, dict) or entry.keys() != {"name", "sha256"}:
        raise ValueError(f"a file in it is {shown(entry)}; its name and sha256 were expected")
    name, digest = entry["name"], entry["sha256"]
    if not isinstance(name, str) or not isinstance(digest, str):
        raise ValueError(f"a file in it is {shown(entry)}; texts were expected")
    if Path(name).name != name:
        raise ValueError(f"the file {shown(name)} does not stand beside it")
    return PlanFile(name, digest)


def _checked(plan: Path, file: PlanFile | None) -> Path | None:
    """The file beside the plan, if it is still the one that was measured."""
    if file is None:
        return None
    try:
        path = file_beside(plan, file.name)
    except ValueError as error:
        raise FileError(
            f"{plan} was measured with {shown(file.name)}, which {error}. Run `stateport tune` "
            "again, or copy the files together."
        ) from error
    if sha256(path) != file.sha256:
        raise FileError(
            f"{path} is not the file that {plan} was measured with. Run `stateport tune` again."
        )
    return path


def sha256(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        FileError: it cannot be read.
    """
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
