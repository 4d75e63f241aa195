# SPDX-License-Identifier: Apache-2.0
"""What the engine `c` asks for: the source of a model's library, and which version writes it.

It imports what writes only when that is needed: `stateport doctor` asks for the version alone.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Final

from stateport import __version__
from stateport.model_file.onnx_outline import OnnxFile

from ..errors import ExportError

DISTRIBUTION: Final = "emx-onnx-cgen"
INSTALL: Final = "pip install 'stateport-exporter[c]'"


def version() -> str:
    """What writes the source, and its version; a source of another version is another one.

    Raises:
        ExportError: it is not installed.
    """
    try:
        generator = version_of(DISTRIBUTION)
    except PackageNotFoundError as error:
        raise ExportError(
            f"C source needs {DISTRIBUTION}, which is not installed. Install it: {INSTALL}."
        ) from error
    return f"stateport-exporter {__version__} {_digest_of_writer()}, {DISTRIBUTION} {generator}"


def library_source(file: OnnxFile) -> str:
    """The source of a model's library; see `library.library_source`."""
    from .library import library_source as write

    return write(file)


@lru_cache(maxsize=1)
def _digest_of_writer() -> str:
    """A digest of the code that writes: in a checkout it changes while the version stays."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
