# SPDX-License-Identifier: Apache-2.0
"""`stateport inspect`: the inputs, outputs, states and operators of a model file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, Final

import click

from ..contract import CONTRACT_KEY, ORIGIN_KEY, PRECISION_KEY, Contract, describe
from ..errors import ContractError
from ..files.reading import parse_json
from ..model_file.infer_contract import operator_with_state
from ..model_file.onnx_outline import OnnxFile, read
from ..model_file.read_contract import find_contract
from ..table import facts
from .common import MODEL, STATES, named_states
from .output import say_json, show


@click.command(short_help="Show the inputs, outputs, states and operators of a model file.")
@MODEL
@STATES
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
def inspect(model: Path, states: tuple[str, ...], as_json: bool) -> None:
    """Show the inputs, outputs, states, axes, operators and origin of MODEL.onnx.

    The states come from the contract in the file. For a file without a contract they are taken from
    --state, or else matched by well-known names.
    """
    file = read(model)
    contract: Contract | None = None
    try:
        contract = find_contract(file, named_states(states))
    except ContractError:
        # A file without a contract is shown even if its states are unknown.
        if CONTRACT_KEY in file.metadata:
            raise

    document = _document(file, contract)
    if as_json:
        say_json(document)
    else:
        _show_document(document)


def _document(file: OnnxFile, contract: Contract | None) -> dict[str, Any]:
    return {
        "file": str(file.path),
        "bytes": file.nbytes,
        "producer": file.producer,
        "origin": _origin(file),
        "ir_version": file.ir_version,
        "opsets": file.opsets,
        "says_itself": CONTRACT_KEY in file.metadata,
        "contract": None if contract is None else json.loads(contract.to_json()),
        "inputs": [{"name": s.name, "dtype": s.dtype, "shape": s.shape} for s in file.inputs],
        "outputs": [{"name": s.name, "dtype": s.dtype, "shape": s.shape} for s in file.outputs],
        "precision": file.metadata.get(PRECISION_KEY, "float32"),
        "axes": [] if contract is None else _axis_names(contract),
        "operators": dict(file.operators.most_common()),
        "weights": {
            "count": sum(prod(w.shape) for w in file.weights),
            "bytes": sum(w.nbytes for w in file.weights),
            "external_files": list(file.external_files),
        },
    }


def _origin(file: OnnxFile) -> object:
    """What the exporter noted about the network and the export, if it did."""
    text = file.metadata.get(ORIGIN_KEY)
    if text is None:
        return None
    try:
        return parse_json(text)
    except ValueError:  # another program wrote text under this key: it is shown as it is
        return text


def _axis_names(contract: Contract) -> list[str]:
    """The dynamic axes that have names, without computed ones such as "2*time"."""
    return sorted(axis for axis in contract.axes if axis.isidentifier())


def _show_document(document: dict[str, Any]) -> None:
    grid = facts()
    for name, text in _rows(document):
        grid.add(name, text)
    show(grid)


def _rows(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The rows of the table: a name and a text each."""
    yield from _file_rows(document)

    contract = document["contract"]
    source = document if contract is None else contract
    for spec in source["inputs"]:
        yield "input", f"{spec['name']}: {_array_text(spec)}"
    for spec in source["outputs"]:
        yield "output", f"{spec['name']}: {_array_text(spec)}"

    if contract is None:
        operator = operator_with_state(document["operators"])
        advice = f"; {operator} may hide one: see `stateport lift`" if operator else ""
        yield "contract", f"none: which inputs are states is unknown{advice}"
    else:
        yield from _contract_rows(document, contract)

    yield from _content_rows(document)


def _file_rows(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The file, the program that wrote it, and its format."""
    yield "file", f"{document['file']}, {document['bytes']:,} bytes"
    yield "made by", document["producer"]

    origin = document["origin"]
    entries = origin if isinstance(origin, dict) else {"origin": origin}
    if origin is None:
        entries = {}
    for key, value in entries.items():
        text = value if isinstance(value, str) else json.dumps(value)
        yield f"  {key}", text

    opsets = ", ".join(f"{domain} {number}" for domain, number in document["opsets"].items())
    yield "opset", f"{opsets} (IR version {document['ir_version']})"


#: The entries of a contract that limit the sizes of axes, in words.
_LIMITS: Final = (
    ("minimums", "at least"),
    ("limits", "at most"),
    ("multiples", "multiples of"),
)


def _contract_rows(document: dict[str, Any], contract: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The states, streaming and axes."""
    if not document["says_itself"]:
        yield "contract", "none in the file; the states come from --state, or from names"

    for state in contract["states"]:
        names = f"{state['input']} -> {state['output']}"
        yield "state", f"{names}: {_array_text(state)}, starts from {state['initial']}"

    yield "streams", _streaming_text(contract["streaming"])
    yield "dynamic axes", ", ".join(document["axes"]) or "none"
    for key, words in _LIMITS:
        if key in contract:
            sizes = ", ".join(f"{axis} {size}" for axis, size in contract[key].items())
            yield words, f"{sizes} in one call"


def _content_rows(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The precision, operators and weights."""
    yield "precision", document["precision"]
    operators = (f"{name} {count}" for name, count in document["operators"].items())
    yield "operators", ", ".join(operators)

    weights = document["weights"]
    text = f"{weights['count']:,} numbers, {weights['bytes']:,} bytes"
    if weights["external_files"]:
        text += f", in {', '.join(weights['external_files'])}"
    yield "weights", text


def _streaming_text(streaming: dict[str, Any]) -> str:
    """Whether the network can run chunk by chunk, on which conditions, or why not."""
    if streaming["ok"] is None:
        return f"not known: {streaming['because']}"
    if not streaming["ok"]:
        return f"no: {streaming['because']}"

    multiple = streaming.get("multiple", 1)
    delay = streaming.get("delay", 0)
    text = "yes"
    if multiple > 1:
        text += f", in chunks of multiples of {multiple} steps"
    if delay >= multiple:
        text += f", with a look-ahead of {delay} steps"
    elif delay:
        text += (
            f"; an output step needs up to {delay} later steps, all of them in the same "
            f"{multiple} steps: no chunk waits for the next one"
        )
    return text


def _array_text(spec: dict[str, Any]) -> str:
    text = describe(spec["dtype"], spec["shape"])
    if "lengths_of" in spec:
        text += f", row lengths along {spec['lengths_of']}"
    return text
