# SPDX-License-Identifier: Apache-2.0
"""The plan: the fastest way to run a model under a load, as `stateport tune` measured it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any, Final

from .axes import SIZE_LIMIT, is_count
from .errors import FileError
from .files.paths import file_beside, opened, usable_path
from .files.reading import read_json
from .files.writing import written_atomically
from .picking import without
from .shown import shown

VERSION: Final = 1


@dataclass(frozen=True)
class PlanFile:
    """A file beside the plan, and the SHA-256 of its bytes."""

    name: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> PlanFile:
        """Describes a file with its present content.

        Raises:
            FileError: it cannot be read.
        """
        return cls(path.name, sha256(path))


@dataclass(frozen=True)
class Plan:
    """How a model is run.

    Attributes:
        model: the SHA-256 of the model's file that the plan was made for.
        engine: the engine's name.
        threads: how many threads a call may use.
        options: the engine's options, such as its precision.
        variant: a description of the files that are run; "as exported" for the model itself.
        whole: the file that is run in place of the model; None for the model itself.
        step: the file that is run in calls of one step; None for the same as in other calls.
        chunk: the number of steps per call for which the plan was the fastest.
        measured: the measured times, and the load.
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
        """Writes the plan as JSON. The files that it names must be in the same folder.

        Raises:
            FileError: the plan cannot be written.
        """
        with written_atomically(Path(path)) as part:
            text = json.dumps({"version": VERSION, **asdict(self)}, indent=1)
            part.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Plan:
        """Reads a plan.

        Raises:
            FileError: the file cannot be read, or is not a plan of a version that this stateport
                reads.
        """
        path = usable_path(path)
        try:
            document = read_json(path)
        except ValueError as error:
            raise FileError(f"{path} is not a plan: it is not JSON ({error}).") from error

        try:
            return cls._from_document(document)
        except ValueError as error:
            raise FileError(
                f"{path} is not a plan that this stateport reads: {error}. Write it again with "
                "`stateport tune`."
            ) from error

    @classmethod
    def _from_document(cls, document: Any) -> Plan:
        """Reads a plan from its parsed JSON document; `ValueError` says what is wrong with it."""
        _remove_version(document)
        _check_keys(document, [field.name for field in fields(cls)])
        _check_options(document)
        for key in ("whole", "step"):
            document[key] = _read_plan_file(document.get(key))
        return cls(**document)

    def files(self, model: Path, plan: Path) -> tuple[Path, Path | None]:
        """The files that are run for this model.

        Args:
            model: the model's file.
            plan: the file of this plan, which has the other files beside it.

        Returns:
            The file for all calls; and the file for calls of one step, or None if it is the same.

        Raises:
            FileError: the plan was made for another model, or a file beside the plan is missing or
                has changed.
        """
        if sha256(model) != self.model:
            raise FileError(
                f"{plan} was made for another model than {model}, or the model has changed since. "
                "Run `stateport tune` again."
            )
        whole = _find_measured_file(plan, self.whole)
        step = _find_measured_file(plan, self.step)
        return whole or model, step


def _remove_version(document: Any) -> None:
    version = document.pop("version", None) if isinstance(document, dict) else None

    if type(version) is not int or version != VERSION:
        found = "it has no version" if version is None else f"its version is {shown(version)}"
        raise ValueError(f"{found}; {VERSION} was expected")


def _check_keys(document: dict[str, Any], known: Collection[str]) -> None:
    """Checks which keys there are, and the values of those that hold a text or a number."""
    for key in without(sorted(document), known):
        raise ValueError(f"it has the unknown key {shown(key)}")

    for key in ("model", "engine", "variant"):
        text = document.get(key, "")
        if not isinstance(text, str):
            raise ValueError(f"its {key} is {shown(text)}; a text was expected")

    for key in ("threads", "chunk"):
        number = document.get(key, 1)
        if not is_count(number, 1, SIZE_LIMIT - 1):
            raise ValueError(f"its {key} is {shown(number)}; a number above 0 was expected")

    for key in without(("model", "engine", "threads"), document):
        raise ValueError(f"it has no {key}")


def _check_options(document: dict[str, Any]) -> None:
    options = document.get("options", {})
    measured = document.get("measured", {})
    if not isinstance(options, dict) or not isinstance(measured, dict):
        raise ValueError("its options or its measurements are not a JSON object")

    for option, value in options.items():
        if not isinstance(value, str | int | float | bool | None):
            raise ValueError(
                f"its option {shown(option)} is {shown(value)}; a text or a number was expected"
            )


def _read_plan_file(entry: Any) -> PlanFile | None:
    if entry is None:
        return None
    if not isinstance(entry, dict) or entry.keys() != {"name", "sha256"}:
        raise ValueError(f"a file in it is {shown(entry)}; its name and sha256 were expected")

    name, digest = entry["name"], entry["sha256"]
    if not isinstance(name, str) or not isinstance(digest, str):
        raise ValueError(f"a file in it is {shown(entry)}; texts were expected")
    if Path(name).name != name:
        raise ValueError(f"the file {shown(name)} is not in the plan's folder")

    return PlanFile(name, digest)


def _find_measured_file(plan: Path, file: PlanFile | None) -> Path | None:
    """The path of a file beside the plan; None for no file.

    Raises:
        FileError: the file is missing, or its content is no longer what was measured.
    """
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
    """The SHA-256 of a file's content, in hexadecimal.

    Raises:
        FileError: the file cannot be read.
    """
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
