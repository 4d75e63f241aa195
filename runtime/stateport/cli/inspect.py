"""`stateport inspect`: what a model file says about itself."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from ..contract import CONTRACT_KEY, ORIGIN_KEY, PRECISION_KEY, Contract
from ..errors import ContractError
from ..files.reading import parse_json
from ..model_file.onnx_outline import OnnxFile, read
from ..model_file.read_contract import find_contract
from .common import MODEL, STATES, named_states
from .output import say_json, show


@click.command(short_help="Show what a model file says about itself.")
@MODEL
@STATES
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, nothing else.")
def inspect(model: Path, states: tuple[str, ...], as_json: bool) -> None:
    """Show the inputs, outputs, states, axes, operators and origin of MODEL.onnx.

    Of a file that does not say what its states are, its names may tell, or --state.
    """
    file = read(model)
    contract: Contract | None = None
    try:
        contract = find_contract(file, named_states(states))
    except ContractError:
        if CONTRACT_KEY in file.metadata:
            raise
    document = _document(file, contract)
    if as_json:
        say_json(document)
    else:
        _show(document)


def _document(file: OnnxFile, contract: Contract | None) -> dict[str, Any]:
    return {
        "file": str(file.path),
        "bytes": file.nbytes,
        "producer": file.producer,
        "origin": _origin(file),
        "ir_version": file.ir_version,
        "opsets": file.opsets,
        "says_itself": CONTRACT_KEY in file.metadata,
        "contract": json.loads(contract.to_json()) if contract else None,
        "inputs": [{"name": s.name, "dtype": s.dtype, "shape": s.shape} for s in file.inputs],
        "outputs": [{"name": s.name, "dtype": s.dtype, "shape": s.shape} for s in file.outputs],
        "precision": file.metadata.get(PRECISION_KEY, "float32"),
        "axes": sorted(axis for axis in contract.axes if axis.isidentifier()) if contract else [],
        "operators": dict(file.operators.most_common()),
        "weights": {
            "count": sum(prod(w.shape) for w in file.weights),
            "bytes": sum(w.nbytes for w in file.weights),
            "external_files": list(file.external_files),
        },
    }


def _origin(file: OnnxFile) -> object:
    text = file.metadata.get(ORIGIN_KEY)
    if text is None:
        return None
    try:
        return parse_json(text)
    except ValueError:  # somebody else's text under our key: shown as it is
        return text


def _show(document: dict[str, Any]) -> None:
    contract = document["contract"]
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(style="bold", overflow="fold")
    grid.add_column(overflow="fold")
    grid.add_row("file", f"{document['file']}, {document['bytes']:,} bytes")
    grid.add_row("made by", document["producer"])
    origin = document["origin"]
    for key, value in origin.items() if isinstance(origin, dict) else [("origin", origin)]:
        grid.add_row(f"  {key}", _text(value))
    opsets = ", ".join(f"{domain} {number}" for domain, number in document["opsets"].items())
    grid.add_row("opset", f"{opsets} (IR version {document['ir_version']})")
    source = contract or document
    for kind in ("inputs", "outputs"):
        for spec in source[kind]:
            grid.add_row(kind[:-1], f"{spec['name']}: {_array(spec)}")
    if contract is None:
        grid.add_row("contract", "none: which inputs are states is unknown")
    else:
        if not document["says_itself"]:
            grid.add_row("contract", "none in the file; this is what names tell, or --state")
        for state in contract["states"]:
            names = f"{state['input']} -> {state['output']}"
            grid.add_row("state", f"{names}: {_array(state)}, starts from {state['initial']}")
        streaming = contract["streaming"]
        grid.add_row("streams", _streams(streaming))
        grid.add_row("dynamic axes", ", ".join(document["axes"]) or "none")
        if "limits" in contract:
            most = (f"{axis} {size}" for axis, size in contract["limits"].items())
            grid.add_row("at most", f"{', '.join(most)} in one call")
    grid.add_row("precision", document["precision"])
    operators = ", ".join(f"{name} {count}" for name, count in document["operators"].items())
    grid.add_row("operators", operators)
    weights = document["weights"]
    beside = f", in {', '.join(weights['external_files'])}" if weights["external_files"] else ""
    grid.add_row("weights", f"{weights['count']:,} numbers, {weights['bytes']:,} bytes{beside}")
    show(grid)


def _streams(streaming: dict[str, Any]) -> str:
    if not streaming["ok"]:
        known = "not known" if streaming["ok"] is None else "no"
        return f"{known}: {streaming['because']}"
    multiple, lookahead = streaming.get("multiple", 1), streaming.get("delay", 0)
    chunks = f", in chunks of multiples of {multiple} steps" if multiple > 1 else ""
    return f"yes{chunks}, with a delay of {lookahead} steps" if lookahead else f"yes{chunks}"


def _array(spec: dict[str, Any]) -> str:
    text = f"{spec['dtype']}[{', '.join(map(str, spec['shape']))}]"
    return f"{text}, row lengths along {spec['lengths_of']}" if "lengths_of" in spec else text


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
