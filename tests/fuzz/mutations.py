"""Files that are almost right: bytes, JSON documents and Protocol Buffers, changed at random."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

#: Numbers at which readers break.
NUMBERS = [0, 1, 2, 3, 5, 7, -1, 127, 128, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1]
NUMBERS += [2**63, 2**64 - 1, 10**12, -(2**63), 10**30]
#: Texts at which readers break: no names, no files' names, places outside the folder, long ones.
TEXTS = [
    "",
    "x",
    "y",
    "h0",
    "batch",
    "time",
    "\0",
    "\ud800",
    "\udc80",
    "a\nb",
    "é" * 200,
    "..",
    ".",
]
TEXTS += ["../x", "/etc/passwd", "/dev/zero", "a" * 300, "a" * 5000, "w.bin", "./w.bin", "link.bin"]
TEXTS += [
    "time//0",
    "time*10000000000",
    "-" * 500 + "1",
    "(" * 500,
    "time**9",
    "8*(time//8)",
    "nan",
]
TEXTS += ["float32", "float64", "int64", "bool", "object", "O", "f4,f4", "99999999999f4", "1e999"]
#: Texts that are not JSON that a program would write.
_RAW = {
    "@deep@": "[" * 100_000,
    "@deep object@": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "@closed@": "[" * 3000 + "]" * 3000,
    "@digits@": "1" * 5000,
    "@inf@": "Infinity",
    "@nan@": "NaN",
    "@float@": "1e999",
}

numbers = st.sampled_from(NUMBERS) | st.integers(0, 20)
texts = st.sampled_from(TEXTS) | st.text(max_size=8)
values: st.SearchStrategy[Any] = st.one_of(
    numbers,
    texts,
    st.sampled_from([None, True, False, 1.5, -0.5, 1e308, [], {}, [[]], [{}], [1] * 100]),
    st.sampled_from(sorted(_RAW)),
    st.lists(numbers | texts, max_size=40),
    st.dictionaries(texts, numbers | texts, max_size=3),
).map(copy.deepcopy)  # later changes must not reach what is drawn from


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """A file with up to four changes of its bytes."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        change = draw(st.sampled_from(_CHANGES))
        start = draw(st.integers(0, len(content)))
        change(draw, content, start, start + draw(st.integers(1, 16)))
    return bytes(content)


def _flip(draw: st.DrawFn, content: bytearray, start: int, end: int) -> None:
    if start < len(content):
        content[start] ^= 1 << draw(st.integers(0, 7))


def _write(draw: st.DrawFn, content: bytearray, start: int, end: int) -> None:
    number = draw(st.sampled_from(NUMBERS)) % 2**64
    size = draw(st.sampled_from([1, 2, 4, 8]))
    content[start : start + size] = number.to_bytes(8, "little")[:size]


def _insert(draw: st.DrawFn, content: bytearray, start: int, end: int) -> None:
    content[start:start] = draw(st.binary(max_size=8))


def _delete(draw: st.DrawFn, content: bytearray, start: int, end: int) -> None:
    del content[start:end]


def _repeat(draw: st.DrawFn, content: bytearray, start: int, end: int) -> None:
    content[start:start] = content[start:end] * draw(st.sampled_from([1, 2, 1000]))


def _cut(draw: st.DrawFn, content: bytearray, start: int, end: int) -> None:
    del content[start:]


def _swap(draw: st.DrawFn, content: bytearray, start: int, end: int) -> None:
    other = draw(st.integers(0, len(content)))
    content[start:end], content[other : other + 8] = content[other : other + 8], content[start:end]


_CHANGES: list[Callable[[st.DrawFn, bytearray, int, int], None]] = [
    *(_flip, _write, _insert, _delete, _repeat, _cut, _swap)
]


@st.composite
def documents(draw: st.DrawFn, seeds: Sequence[Any]) -> str:
    """The JSON text of a document with up to three changes of what it says."""
    document = json.loads(json.dumps(draw(st.sampled_from(seeds))))
    for _ in range(draw(st.integers(0, 3))):
        document = _changed(draw, document)
    text = json.dumps(document)
    for mark, raw in _RAW.items():
        text = text.replace(json.dumps(mark), raw)
    if draw(st.integers(0, 9)) == 0:  # a key that comes twice
        text = text.replace('{"', '{"version": 1, "', 1)
    return text


def _changed(draw: st.DrawFn, document: Any) -> Any:
    """The document with another value, or none, somewhere in it."""
    if not isinstance(document, dict | list) or not document or draw(st.integers(0, 9)) == 0:
        return draw(values)
    keys: list[Any] = [*document] if isinstance(document, dict) else [*range(len(document))]
    key = draw(st.sampled_from(keys))
    action = draw(st.integers(0, 9))
    if action == 0:
        del document[key]
    elif action == 1 and isinstance(document, list):
        document.append(document[key])
    elif action == 1 and isinstance(document, dict):
        document[draw(texts)] = document[key]
    elif action == 2:
        document[key] = draw(values)
    else:
        document[key] = _changed(draw, document[key])
    return document


#: Of a message: the fields, each with the name of the message that it holds, "int" or "text".
Schema = Mapping[str, Mapping[int, str]]


@st.composite
def messages(draw: st.DrawFn, schema: Schema, name: str, depth: int = 0) -> bytes:
    """A message of Protocol Buffers whose fields are of the right kinds, and hold anything."""
    fields, parts = schema[name], []
    for _ in range(draw(st.integers(0, 6 if depth < 5 else 1))):
        number = draw(st.sampled_from(sorted(fields)))
        kind = fields[number]
        if kind == "int":
            parts.append(varint(number << 3) + varint(draw(numbers) % 2**64))
        elif kind == "text":
            parts.append(field(number, draw(texts).encode(errors="replace")))
        else:
            inner = draw(messages(schema, kind, depth + 1))
            most = 50 if len(inner) < 100 else 1  # of one within another there are 50 ** depth
            parts.extend([field(number, inner)] * min(most, draw(st.sampled_from([1, 1, 2, 50]))))
    return b"".join(parts)


def varint(number: int) -> bytes:
    """A number as Protocol Buffers write it."""
    content = bytearray()
    while True:
        number, low = number >> 7, number & 127
        content.append(low | (128 if number else 0))
        if not number:
            return bytes(content)


def field(number: int, content: bytes) -> bytes:
    """A field of Protocol Buffers that holds a text or a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content
