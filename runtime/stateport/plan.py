"""The plan: how a model is best run for a load, as `stateport tune` found by measuring."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Final

from .errors import FileError
from .files import written_atomically

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
        path = Path(path)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise FileError(f"{path} could not be read: {error.strerror or error}.") from error
        except ValueError as error:
            raise FileError(f"{path} is no plan: it is not JSON ({error}).") from error
        try:
            return cls._from(document)
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(
                f"{path} is no plan that this stateport reads ({error}). Write it again with "
                "`stateport tune`."
            ) from error

    @classmethod
    def _from(cls, document: Any) -> Plan:
        if not isinstance(document, dict) or document.pop("version", None) != VERSION:
            raise ValueError(f"it has no version {VERSION}")
        for key in ("whole", "step"):
            if document.get(key) is not None:
                document[key] = PlanFile(**document[key])
                if Path(document[key].name).name != document[key].name:
                    raise ValueError(f"{document[key].name!r} does not stand beside it")
        plan = cls(**document)
        texts = (plan.model, plan.engine, plan.variant)
        numbers = (plan.threads, plan.chunk)
        if not all(isinstance(text, str) for text in texts) or not all(
            type(number) is int and number > 0 for number in numbers
        ):
            raise ValueError("engine, threads or chunk is no name or number")
        if not isinstance(plan.options, dict) or not isinstance(plan.measured, dict):
            raise ValueError("options or measured is no object")
        return plan

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
        found = []
        for file in (self.whole, self.step):
            path = None if file is None else plan.parent / file.name
            if file is not None and path is not None and sha256(path) != file.sha256:
                raise FileError(
                    f"{path} is not the file that {plan} was measured with. "
                    "Run `stateport tune` again."
                )
            found.append(path)
        return found[0] or model, found[1]


def sha256(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        FileError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"{path} could not be read: {error.strerror or error}.") from error
