"""Files whose every text is meant for a terminal, a build server or a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from stateport.contract import CONTRACT_KEY, ORIGIN_KEY, Contract
from stateport.parity.vectors import Vectors, vectors_path

#: A title for the terminal's window, colours, a bell, line breaks with commands for build servers,
#: a clearing of the screen in one character, text from right to left, and what rich makes of text.
EVIL = (
    "\x1b]0;owned\x07\x1b[31m\r\n::error::evil\n  ::set-output name a::b\n##[error]evil\n"
    "##vso[task.complete]\n##teamcity[x]\x7f\x9b2J\u202e\u2066\u200b\ufeff\u2028\u2029"
    "[red]x[/red][@click]:cat:<b>|\\"
)


def dangers(text: str) -> list[str]:
    """What in a text may reach a terminal or a build server; line breaks alone are allowed."""
    signs = [sign for sign in text if not sign.isprintable() and sign != "\n"]
    lines = [line for line in text.split("\n") if re.match(r"\s*::\s*[\w-]", line)]
    return [*signs, *lines, *re.findall(r"##\w*\[", text)]


def spoilt(source: Path, path: Path, *, contract: bool = True) -> Path:
    """A model file and its vectors, with an evil end on every name and text."""
    model = onnx.load(source)
    old = json.loads({p.key: p.value for p in model.metadata_props}[CONTRACT_KEY])
    names = {spec["name"]: spec["name"] + EVIL for spec in (*old["inputs"], *old["outputs"])}
    for state in old["states"]:
        names |= {state[role]: state[role] + EVIL for role in ("input", "output")}
    _rename(model.graph, names)
    model.producer_name = model.producer_version = model.graph.name = f"{EVIL}\0"
    del model.metadata_props[:]
    new = _renamed(old, names)
    if contract:
        _note(model, {CONTRACT_KEY: json.dumps(new), ORIGIN_KEY: json.dumps({EVIL: f"{EVIL}\0"})})
    onnx.save(model, path)
    vectors = Vectors.load(vectors_path(source))
    _vectors(vectors, Contract.from_json(json.dumps(new)), names).save(vectors_path(path))
    return path


def _note(model: onnx.ModelProto, texts: Mapping[str, str]) -> None:
    for key, value in texts.items():
        model.metadata_props.add(key=key, value=value)


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    weights = {tensor.name: tensor.name + EVIL for tensor in graph.initializer}
    for tensor in graph.initializer:
        tensor.name = weights[tensor.name]
    for node in graph.node:
        node.name += EVIL
        for part in (node.input, node.output):
            part[:] = [names.get(name, weights.get(name, name)) for name in part]


def _renamed(contract: Any, names: Mapping[str, str]) -> Any:
    """The contract with other names; its axes keep theirs."""
    for spec in (*contract["inputs"], *contract["outputs"]):
        spec["name"] = names[spec["name"]]
    for state in contract["states"]:
        state["input"], state["output"] = names[state["input"]], names[state["output"]]
    return contract


def _vectors(vectors: Vectors, contract: Contract, names: Mapping[str, str]) -> Vectors:
    def moved(arrays: Mapping[str, Any]) -> dict[str, Any]:
        return {names.get(name, name): array for name, array in arrays.items()}

    cases = [
        replace(
            case,
            name=case.name + EVIL,
            inputs=moved(case.inputs),
            initial=moved(case.initial),
            truth=moved(case.truth),
            kept=moved(case.kept),
        )
        for case in vectors.cases
    ]
    made_with = {name + EVIL: value + EVIL for name, value in vectors.made_with.items()}
    return replace(
        vectors,
        contract=contract,
        floor=moved(vectors.floor),
        cases=tuple(cases),
        made_with=made_with,
        trace=None,
    )
