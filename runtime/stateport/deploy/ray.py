# SPDX-License-Identifier: Apache-2.0
"""A file for Ray Serve, in which the server of `stateport serve` runs as replicas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..contract import check_streaming
from ..errors import FileError, InputError, StateportError
from ..files.writing import written_atomically
from ..model_file.onnx_outline import read
from ..model_file.read_contract import read_contract
from ..ray.serve import check_replicas
from ..serve.durability import Durability
from ..serve.stores import open_store
from ..serve.tokens import Tokens

_TEXT: Final = '''\
"""Live streams on Ray Serve. Written by `stateport deploy ray`; change it as you like.

It needs, on every machine: pip install 'stateport[cpu,serve,ray]'

    serve run {module}:app    # answers at http://127.0.0.1:8000

Clients send the header x-session-id with the id of the sequence, so that all steps of a stream
reach one replica. To use another header, set RAY_SERVE_SESSION_ID_HEADER_KEY before Ray starts.
"""

import stateport.ray

# Every machine that runs replicas needs these files under these paths.
MODELS = {{
{models}
}}

# Ray's own settings go here: streams.options(autoscaling_config=..., logging_config=...).
streams = stateport.ray.deployment(
    MODELS,
{options}
)

app = streams.bind()
'''


def write_application(models: Mapping[str, Path], output: Path, options: Mapping[str, Any]) -> None:
    """Writes a Python file with a Ray Serve application, `app`.

    Args:
        models: the model files by their names.
        output: the file, APP.py.
        options: what `stateport.ray.deployment` takes, by name; None is left out.

    Raises:
        FileError: a model or the tokens cannot be read, or the output cannot be written, as where
            there is such a file already.
        ContractError: a model has no contract.
        StreamingError: a network needs whole sequences.
        InputError: the store, the durability or a number cannot be used, or no module can have the
            output's name.
    """
    check_replicas(options["store"], options.get("replicas", 1))
    _check_streams(options)
    if output.suffix != ".py" or not output.stem.isidentifier():
        raise InputError(
            f"{output.name!r} is no name of a Python module; letters, digits and _, with .py "
            "behind them, were expected. Pass -o app.py."
        )
    if output.exists() or output.is_symlink():
        raise FileError(
            f"{output} is there already, and may have been changed. Remove it, or pass -o with "
            "another name."
        )
    for path in models.values():
        check_streaming(read_contract(read(path)))

    paths = [f"    {name!r}: {str(path.resolve())!r}," for name, path in models.items()]
    settings = [f"    {name}={value!r}," for name, value in options.items() if value is not None]
    text = _TEXT.format(module=output.stem, models="\n".join(paths), options="\n".join(settings))
    with written_atomically(output) as part:
        part.write_text(text, encoding="utf-8")


def _check_streams(options: Mapping[str, Any]) -> None:
    """Checks what the servers would read later: where streams are kept, when, and the tokens.

    Raises:
        FileError, InputError: it cannot be used.
    """
    try:
        open_store(options["store"])
    except InputError:
        raise
    except StateportError:  # the store's library may be where the servers run, and not here
        pass
    if options.get("durability") is not None:
        Durability.of(options["durability"])
    if options.get("token_file") is not None:
        Tokens.load(Path(options["token_file"]))
