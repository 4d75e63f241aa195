"""What names tell of states. They break ties between what data flow and shapes leave open."""

from __future__ import annotations

import re
from typing import Final

Path = tuple[str, ...]

#: What people call states: h, hx, h_0, c, cx, hidden, prev_state, mem, carry, conv_cache, ...
_STATE: Final = re.compile(
    r"(^|_)([hcsz]x?|syn|v|u)(\d*|_.*)$|hid|state|mem|carry|cell|prev|recurrent|lstm|gru|rnn"
    r"|past|cache|buffer|history|fifo|delay",
    re.IGNORECASE,
)
#: And what they call nothing else.
_ONLY_STATE: Final = re.compile(r"(^|_)(h|hx)(\d*|_.*)$|hid|state|carry|cache", re.IGNORECASE)
#: Words for what a network is fed. `return audio, video, h` names its results after its arguments,
#: and only h is a state.
_SIGNALS: Final = frozenset({
    "x", "y", "z", "audio", "video", "image", "img", "frame", "frames", "wave", "waveform", "wav",
    "signal", "sound", "speech", "noise", "noisy", "mic", "far", "near", "left", "right", "obs",
    "observation", "mask", "input", "inputs", "feature", "features", "feats", "source", "src",
    "tgt", "target", "text", "token", "tokens", "ids", "cond", "condition", "speaker", "style",
    "embedding", "emb", "action", "reward",
})  # fmt: skip
#: Words that say of a value only whether it comes before or after the step.
_TIMES: Final = frozenset({
    "new", "next", "n", "present", "updated", "update", "cur", "curr", "current", "now", "out",
    "output", "o", "past", "prev", "previous", "last", "old", "in", "input", "i", "init", "initial",
})  # fmt: skip


def is_like_a_state(path: Path) -> bool:
    """Whether an argument stands in a container, or has a name that states have."""
    return len(path) > 1 or _STATE.search(path[0]) is not None


def is_surely_a_state(path: Path) -> bool:
    """Whether an argument has a name that nothing but a state has."""
    return _ONLY_STATE.search(path[-1]) is not None


def is_like_a_signal(path: Path) -> bool:
    """Whether an argument is called as what a network is fed."""
    return not is_like_a_state(path) and not _SIGNALS.isdisjoint(_words(path[0]))


def are_one(argument: Path, result: Path) -> bool:
    """Whether the names of an argument and of a result say that these are one thing.

    past_k and k, h0 and hn, state and new_state, ("state", "0") and ("state", "0").
    """
    if all(key.isdigit() for key in result):
        return False
    if argument == result:
        return True
    ends = [_key(path[-1:]) for path in (argument, result) if not path[-1].isdigit()]
    if len(ends) == 2 and len(result) == 1 and _same(*ends):
        return True
    return _same(_key(argument), _key(result))


def _same(argument: Path, result: Path) -> bool:
    if not argument or not result:
        return False
    last = (*argument[:-1], f"{argument[-1]}n")  # h0 and hn, state and stateN
    counted = result[:-1] == argument and result[-1].isdigit()  # h and h2
    return counted or result in (argument, last)


def _key(path: Path) -> Path:
    """The words of a path that say what it is, without those that say when."""
    words: list[str] = []
    for key in path:
        if key.isdigit():
            words.append(key)
        else:
            words += [word for word in _words(key) if word not in _TIMES and word != "0"]
    return tuple(words)


def _words(name: str) -> list[str]:
    """The words and numbers of a name: convCache_2 is conv, cache, 2."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name)
    return [word.lower() for word in re.findall(r"[A-Za-z]+|\d+", snake)]
