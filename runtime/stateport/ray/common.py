# SPDX-License-Identifier: Apache-2.0
"""What data sets and live streams on Ray share: the model on its way to a worker, missing parts."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import StateportError
from ..model import Model, load

#: A model's file, or what is in it.
ModelFile = str | PathLike[str] | bytes


def sent(model: ModelFile) -> str | bytes:
    """What a worker gets: bytes, or a path that does not depend on the working directory."""
    return model if isinstance(model, bytes) else str(Path(model).resolve())


def loaded(model: ModelFile, engine: str | None, threads: int | None = None) -> Model:
    """Loads a model from its file, or from the bytes of it.

    Raises:
        StateportError: as `load`.
    """
    if not isinstance(model, bytes):
        return load(model, engine=engine, threads=threads)

    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        return load(path, engine=engine, threads=threads)


def missing(name: str, error: ImportError, extras: str) -> StateportError:
    """The error for a library that is not installed.

    Args:
        name: the function that needs it.
        error: what the import raised.
        extras: the extras that have it: "cpu,ray".
    """
    library = (error.name or "").partition(".")[0]
    return StateportError(
        f"{name} needs {library}, which is not installed here. Install the extras: pip install "
        f"'stateport[{extras}]'."
    )
