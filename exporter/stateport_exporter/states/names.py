# SPDX-License-Identifier: Apache-2.0
"""What names show of states. They break ties that data flow and shapes leave open."""

from __future__ import annotations

import re
from typing import Final

#: The way to an argument or a result: parameter, keys, fields, and positions from 0.
Path = tuple[str, ...]

#: What people call states: h, hx, h_0, c, cx, hidden, prev_state, mem, carry, conv_cache, ...
_STATE: Final = re.compile(
    r"(^|_)([hcsz]x?|syn|v|u)(\d*|_.*)$|hid|state|mem|carry|cell|prev|recurrent|lstm|gru|rnn"
    r"|past|cache|buffer|history|fifo|delay",
    re.IGNORECASE,
)
#: Names that nothing but a state has.
_ONLY_STATE: Final = re.compile(r"(^|_)(h|hx)(\d*|_.*)$|hid|state|carry|cache", re.IGNORECASE)
#: Names of the signals that a network is fed. `return audio, video, h` names its results after its
#: arguments, and only h is a state.
_SIGNALS: Final = frozenset({
    "x", "y", "z", "audio", "video", "image", "img", "frame", "frames", "wave", "waveform", "wav",
    "signal", "sound", "speech", "noise", "noisy", "mic", "far", "near", "left", "right", "obs",
    "observation", "mask", "input", "inputs", "feature", "features", "feats", "source", "src",
    "tgt", "target", "text", "token", "tokens", "ids", "cond", "condition", "speaker", "style",
    "embedding", "emb", "action", "reward",
})  # fmt: skip
#: Words that show only whether a value comes before or after the step.
_TIMES: Final = frozenset({
    "new", "next", "n", "present", "updated", "update", "cur", "curr", "current", "now", "out",
    "output", "o", "past", "prev", "previous", "last", "old", "in", "input", "i", "init", "initial",
})  # fmt: skip


def has_name(path: Path) -> bool:
    """Whether a result has a key, a field or a variable's name, and not only positions."""
    return any(not key.isdigit() for key in path)


def is_like_a_state(path: Path) -> bool:
    """Whether an argument is in a container, or has a name that states have."""
    return len(path) > 1 or _STATE.search(path[0]) is not None


def is_surely_a_state(path: Path) -> bool:
    """Whether an argument has a name that nothing but a state has."""
    return _ONLY_STATE.search(path[-1]) is not None


def is_like_a_signal(path: Path) -> bool:
    """Whether an argument has a name of the signals that a network is fed."""
    return not is_like_a_state(path) and not _SIGNALS.isdisjoint(_words(path[0]))


def are_one(argument: Path, result: Path) -> bool:
    """Whether an argument and a result have names of the same thing, before and after a step.

    past_k and k, h0 and hn, state and new_state, ("state", "0") and ("state", "0").
    """
    if not has_name(result):
        return False
    if argument == result:
        return True

    if _same(_timeless(argument), _timeless(result)):
        return True

    # ("state", "h") and "h": the last key alone, if it is a name.
    are_names = not argument[-1].isdigit() and not result[-1].isdigit()
    is_single = len(result) == 1
    return are_names and is_single and _same(_timeless(argument[-1:]), _timeless(result))


def _same(argument: Path, result: Path) -> bool:
    """Whether two lists of words, without those for before and after, name the same thing."""
    if not argument or not result:
        return False
    if result == argument:
        return True

    with_n = (*argument[:-1], f"{argument[-1]}n")  # h0 and hn, state and stateN
    is_numbered = result[:-1] == argument and result[-1].isdigit()  # h and h2
    return result == with_n or is_numbered


def _timeless(path: Path) -> Path:
    """The words of a path that name the thing, without those for before and after the step."""
    words: list[str] = []
    for key in path:
        if key.isdigit():
            words.append(key)
        else:
            words += filter(_names_thing, _words(key))
    return tuple(words)


def _names_thing(word: str) -> bool:
    """Whether a word does not only say when: before or after the step, or at the beginning."""
    return word != "0" and word not in _TIMES


def _words(name: str) -> list[str]:
    """The words and numbers of a name: convCache_2 is conv, cache, 2."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name)
    return [word.lower() for word in re.findall(r"[A-Za-z]+|\d+", snake)]
