# SPDX-License-Identifier: Apache-2.0
"""A graph of fixed sizes as functions in C, by emx-onnx-cgen.

Its text is taken apart, so that `model_source` can put the step together: it stores arrays flat,
lets arrays share memory, and writes some functions itself. What the text may hold is described at
https://github.com/emmtrix/emx-onnx-cgen/blob/v1.4.0/docs/output-format.md.

Names in the graph must be names in C: no text of a file gets into the source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import onnx

from stateport.errors import first_line

from ..errors import ExportError
from .generator import DISTRIBUTION, INSTALL
from .program import BYTES, Call, CArray, Constant, Function, Parameter, Program

_ENTRY: Final = "model"
_NODE: Final = re.compile(
    r"/\*\n \* Node \d+:\n \* OpType: (\w+)\n(.*?)\*/\n"
    r"EMX_NODE_FN void (\w+)\((.*?)\) \{\n(.*?)\n\}\n",
    re.DOTALL,
)
_CONSTANT: Final = re.compile(
    r"^const EMX_UNUSED (\w+) (\w+)((?:\[\d+\])*) = (.*?);$", re.DOTALL | re.MULTILINE
)
_HELPER: Final = re.compile(
    r"^static inline [\w ]+?(\w+)\([^)]*\) \{\n.*?^\}\n", re.DOTALL | re.MULTILINE
)
_MAIN: Final = re.compile(rf"^void {_ENTRY}\((.*?)\) \{{\n(.*?)^\}}", re.DOTALL | re.MULTILINE)
_DECLARATION: Final = re.compile(r"(const )?(\w+) (\w+)((?:\[(?:restrict )?\d+\])*)")
_CALL: Final = re.compile(r"(\w+)\((.*)\)")
_ATTRIBUTE: Final = re.compile(r"^ \*   (\w+): (.*)$", re.MULTILINE)
#: Marks of arrays that may not be used.
_MACRO: Final = re.compile(r" EMX_UNUSED\b")
_COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)


def translate(model: onnx.ModelProto) -> Program:
    """Writes a graph in C.

    Args:
        model: a graph with numbers for all sizes, whose names are names in C.

    Raises:
        ExportError: the generator is not installed, or an operator has no form in C; the message
            names it.
    """
    compiler = _compiler()
    try:
        text: str = compiler.compile(model)
    except Exception as error:  # other people's graphs make it fail in many ways
        raise ExportError(
            f"This step cannot be written in C: {_reason(error)}. {_operators(model)}"
        ) from error

    try:
        return _read(text)
    except _Unread as error:
        raise ExportError(
            f"This step cannot be written in C: {error}. {_operators(model)}"
        ) from error


def _reason(error: Exception) -> str:
    """What the generator says, without the nodes that it lists and its own options."""
    return re.split(r" \(while lowering| Hint:", first_line(error))[0].rstrip(".")


@lru_cache(maxsize=1)
def _compiler() -> Any:
    """The generator. It is kept, because it reads its templates for some seconds at first."""
    try:
        from emx_onnx_cgen.compiler import Compiler, CompilerOptions
    except ModuleNotFoundError as error:
        raise ExportError(
            f"C source needs {DISTRIBUTION}, which is not installed. Install it: {INSTALL}."
        ) from error
    options = CompilerOptions(
        model_name=_ENTRY, large_temp_threshold_bytes=0, large_weight_threshold=0
    )
    return Compiler(options)


#: The generator's names for the functions that others call.
_OWN_CALL: Final = re.compile(r"\b(emx_\w+)\s*\(")


class _Unread(ValueError):  # noqa: N818  # never leaves this module
    """A part of the text is none of those that are known."""


def _read(text: str) -> Program:
    main = _MAIN.search(text)
    if main is None:
        raise _Unread("the generator wrote no step of fixed sizes")

    functions = {function.name: function for function in _functions(text)}
    arguments = [*_declarations(main[1].split(", "))]
    helpers = {match[1]: _COMMENT.sub("", match[0]) for match in _HELPER.finditer(text)}
    temporaries, calls = _body(main[2], functions, helpers)
    return Program(
        tuple(each.array for each in arguments if not each.is_output),
        tuple(each.array for each in arguments if each.is_output),
        tuple(_constants(text)),
        helpers,
        tuple(temporaries),
        tuple(calls),
    )


def _functions(text: str) -> Iterator[Function]:
    for operator, description, name, parameters, body in _NODE.findall(text):
        yield Function(
            name,
            operator,
            dict(_ATTRIBUTE.findall(description)),
            tuple(_declarations(parameters.split(", "))),
            f"static void {name}({parameters})\n{{\n{_MACRO.sub('', _COMMENT.sub('', body))}\n}}\n",
        )


def _constants(text: str) -> Iterator[Constant]:
    for ctype, name, dims, values in _CONSTANT.findall(text):
        elements = re.sub(r"[{}\s]", "", values).split(",")
        yield Constant(_array(name, ctype, dims), tuple(filter(None, elements)))


def _body(
    text: str, functions: dict[str, Function], helpers: Mapping[str, str]
) -> tuple[list[CArray], list[Call]]:
    """The temporary arrays and the calls of the step."""
    temporaries: list[CArray] = []
    calls: list[Call] = []
    for line in text.splitlines():
        statement = line.strip().removesuffix(";")
        call = _CALL.fullmatch(statement)
        if call is not None and call[1] in functions:
            calls.append(Call(functions[call[1]], tuple(call[2].split(", "))))
        elif statement:
            temporaries += [each.array for each in _declarations([statement])]

    _check_helpers(calls, helpers)
    known = {len(call.function.parameters) == len(call.arguments) for call in calls}
    if known - {True}:
        raise _Unread("a function takes something other than arrays")
    return temporaries, calls


def _check_helpers(calls: Sequence[Call], helpers: Mapping[str, str]) -> None:
    """Refuses what calls a function of the generator's own that it did not write as a helper."""
    for call in calls:
        missing = {*_OWN_CALL.findall(call.function.source)} - {*helpers}
        if missing:
            operator = call.function.operator
            raise _Unread(f"{operator} needs {min(missing)}, which the generator did not write")


def _declarations(texts: list[str]) -> Iterator[Parameter]:
    for text in texts:
        declaration = _DECLARATION.fullmatch(text)
        if declaration is None:
            raise _Unread(f"{text!r} is no array of numbers")
        const, ctype, name, dims = declaration.groups()
        yield Parameter(_array(name, ctype, dims), const is None)


def _array(name: str, ctype: str, dims: str) -> CArray:
    ctype = {"_Bool": "bool"}.get(ctype, ctype)
    if ctype not in BYTES:
        raise _Unread(f"there is no array of {ctype} in C99")
    return CArray(name, ctype, tuple(map(int, re.findall(r"\d+", dims))))


def _operators(model: onnx.ModelProto) -> str:
    """The operators of a graph, for an error."""
    names = sorted({node.op_type for node in model.graph.node})
    return f"Its operators are {', '.join(names)}."
