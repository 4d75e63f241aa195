# SPDX-License-Identifier: Apache-2.0
"""From what a training run wrote to the weights of the network, under the network's own names.

Training scripts seldom write a plain `state_dict`. They put it beside the epoch and the optimizer,
wrappers such as `nn.DataParallel` and `torch.compile` prefix every name, and mixed precision halves
the numbers. Each of these is undone here and reported. Where several
sets of weights fit, the caller chooses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from stateport.contract import describe
from stateport.picking import among
from stateport.shown import shown

from ..errors import TargetError

StateDict = Mapping[str, torch.Tensor]

#: What wrappers put before every name: DataParallel and AveragedModel, torch.compile, and the
#: attribute of a training class (Lightning and others) that holds the network.
PREFIXES: Final = ("module.", "_orig_mod.", "model.", "net.", "network.")

#: What AveragedModel (torch.optim.swa_utils) keeps beside the weights.
_COUNTER: Final = "n_averaged"
# A wrapped layer inside the network has its wrapper's name in the middle.
_INNER_WRAPPER: Final = re.compile(r"(?<=\.)(?:_orig_mod|module)\.")
_HALVES: Final = (torch.float16, torch.bfloat16)

# weight_norm of old and of new name the length and the direction of a weight differently.
_OLD_NORM: Final = re.compile(r"^(?P<layer>.*?)(?P<weight>[^.]+)_(?P<part>[gv])$")
_NEW_NORM: Final = re.compile(
    r"^(?P<layer>.*?)parametrizations\.(?P<weight>[^.]+)\.original(?P<part>[01])$"
)

_MOST_NAMES: Final = 3
_LONGEST: Final = 200  # characters of a name in a message


@dataclass(frozen=True)
class Fit:
    """Weights under the network's names, and what was done to make them fit."""

    weights: StateDict
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Candidate:
    """A state dict of the file. `key` leads to it; it is empty where it is the whole file."""

    key: str
    weights: StateDict
    notes: tuple[str, ...] = ()


def fit_weights(
    content: object,
    module: nn.Module,
    source: str,
    *,
    key: str | None = None,
    prefix: str | None = None,
) -> Fit:
    """The weights in a file's content that fit `module`.

    Args:
        content: what the file holds: a state dict, or a dict with one or several of them inside.
        module: the network. Its `state_dict()` gives the names, shapes and dtypes.
        source: what messages call the file.
        key: the entry of `content` to take, such as "ema"; "a.b" is the entry b of the entry a.
        prefix: what to take from the front of names. Names without it are left out.

    Raises:
        TargetError: the content holds no state dict, several of them fit, or none fits.
    """
    expected = module.state_dict()
    candidates = _choose(_state_dicts(content), source, key)

    fits: list[tuple[str, Fit]] = []
    for candidate in candidates:
        fit = _fit(candidate, expected, prefix)
        if fit is not None:
            fits.append((candidate.key, fit))

    if len(fits) > 1:
        raise TargetError(
            f"{source} holds several sets of weights that fit: {_few([key for key, _ in fits])}. "
            "Choose one with --weights-key (weights_key=)."
        )
    if not fits:
        if prefix is not None:
            _check_prefix(candidates, prefix, source)
        raise _misfit(candidates, expected, source, type(module).__qualname__, prefix)

    [(_, fit)] = fits
    _check_tied(fit.weights, expected, source)
    return fit


def _check_prefix(candidates: list[_Candidate], prefix: str, source: str) -> None:
    """Refuses a prefix that no name begins with."""
    names = [name for candidate in candidates for name in candidate.weights]
    if not any(name.startswith(prefix) for name in names):
        raise TargetError(
            f"No name in {source} begins with {shown(prefix)}, which --strip-prefix "
            f"(strip_prefix=) takes off; they begin with {_few(names)}."
        )


def is_plain(value: object) -> bool:
    """Whether a value is a tensor as others are: in memory, dense, not quantised, no subclass."""
    return (
        type(value) in (torch.Tensor, nn.Parameter)
        and value.layout is torch.strided  # type: ignore[attr-defined]
        and value.device.type == "cpu"  # type: ignore[attr-defined]
        and not value.is_quantized  # type: ignore[attr-defined]
    )


def _state_dicts(content: object) -> list[_Candidate]:
    """Every state dict in the content, down to the second level."""
    if _is_state_dict(content):
        return [_Candidate("", content)]  # type: ignore[arg-type]

    candidates = []
    for key, entry in _entries(content):
        if _is_state_dict(entry):
            candidates.append(_Candidate(key, entry))
            continue
        for inner, deeper in _entries(entry):
            if _is_state_dict(deeper):
                candidates.append(_Candidate(f"{key}.{inner}", deeper))
    return candidates


def _entries(content: object) -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for key, entry in content.items():
            if isinstance(key, str):
                yield key, entry


def _is_state_dict(value: object) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(name, str) and is_plain(each) for name, each in value.items())


def _choose(candidates: list[_Candidate], source: str, key: str | None) -> list[_Candidate]:
    """The candidates that come into question: all, or the one that the caller names."""
    if not candidates:
        raise TargetError(
            f"{source} holds no state_dict (names and plain tensors). "
            "Save one with torch.save(module.state_dict(), file), or as .safetensors."
        )
    if key is None:
        return candidates

    chosen = [each for each in candidates if each.key == key]
    if not chosen:
        keys = [each.key for each in candidates if each.key]

        has = f"its sets of weights are {_few(keys)}" if keys else "it is one state_dict itself"

        raise TargetError(f"{source} has no weights under {shown(key)}; {has}.")
    return chosen


def _fit(candidate: _Candidate, expected: StateDict, prefix: str | None) -> Fit | None:
    """The candidate under the network's names, or None where no way of naming them fits."""
    for renamed in _namings(candidate, prefix):
        renamed = _with_tied(_with_norms_of(renamed, expected), expected)
        if renamed.weights.keys() == expected.keys():
            cast = _in_dtypes_of(renamed, expected)
            if not _misfits(cast.weights, expected):
                return Fit(cast.weights, cast.notes)
    return None


def _namings(candidate: _Candidate, prefix: str | None) -> Iterator[_Candidate]:
    """The candidate under its own names, then with less and less before them."""
    key = candidate.key
    notes = (f"the weights are those under {key!r}",) if key else ()
    current = _Candidate(key, candidate.weights, notes)

    if prefix is not None:
        yield _without_prefix(current, prefix)
        return

    yield current
    counted = _without_counter(current)
    if counted is not current:
        current = counted
        yield current

    while (shared := _shared_prefix(current.weights)) is not None:
        current = _without_prefix(current, shared)
        yield current
    inner = {_INNER_WRAPPER.sub("", name): each for name, each in current.weights.items()}
    if len(inner) == len(current.weights):
        note = "the names of wrappers inside the network were taken out of its names"
        yield _Candidate(key, inner, (*current.notes, note))


def _shared_prefix(weights: StateDict) -> str | None:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            return prefix
    return None


def _without_prefix(candidate: _Candidate, prefix: str) -> _Candidate:
    kept = {}
    left = []
    for name, tensor in candidate.weights.items():
        if name.startswith(prefix):
            kept[name.removeprefix(prefix)] = tensor
        else:
            left.append(name)

    notes = [f"the prefix {prefix!r} was taken from the names of the weights"]
    if left:
        notes.append(f"{_few(left)} lies outside {prefix!r} and was left out")
    return _Candidate(candidate.key, kept, (*candidate.notes, *notes))


def _without_counter(candidate: _Candidate) -> _Candidate:
    """Without the number of averages that AveragedModel keeps beside its weights."""
    if _COUNTER not in candidate.weights:
        return candidate
    weights = dict(candidate.weights)
    del weights[_COUNTER]
    note = f"{_COUNTER!r}, which counts averages, was left out"
    return _Candidate(candidate.key, weights, (*candidate.notes, note))


def _with_norms_of(candidate: _Candidate, expected: StateDict) -> _Candidate:
    """With weight_norm's parts under the names that the network's form of it has."""
    weights = {}
    is_changed = False
    for name, tensor in candidate.weights.items():
        alias = _norm_alias(name)
        if name not in expected and alias in expected:
            is_changed = True
            weights[alias] = tensor
        else:
            weights[name] = tensor

    if not is_changed:
        return candidate
    note = "weight_norm's parts were renamed to the form that the network has"
    return _Candidate(candidate.key, weights, (*candidate.notes, note))


def _norm_alias(name: str) -> str:
    """The same part of a weight_norm in the other form; the name itself where it is none."""
    old = _OLD_NORM.match(name)
    if old is not None:
        number = "gv".index(old["part"])
        return f"{old['layer']}parametrizations.{old['weight']}.original{number}"
    new = _NEW_NORM.match(name)
    if new is not None:
        return f"{new['layer']}{new['weight']}_{'gv'[int(new['part'])]}"
    return name


def _in_dtypes_of(candidate: _Candidate, expected: StateDict) -> _Candidate:
    """With halves as float32 where the network has float32. Every half is a float32 exactly."""
    weights = {}
    halves = set()
    for name, tensor in candidate.weights.items():
        if tensor.dtype in _HALVES and _is_castable(tensor, expected[name]):
            halves.add(str(tensor.dtype).removeprefix("torch."))
            weights[name] = tensor.float()
        else:
            weights[name] = tensor

    if not halves:
        return candidate
    note = f"weights in {' and '.join(sorted(halves))} were cast to float32"
    return _Candidate(candidate.key, weights, (*candidate.notes, note))


def _is_castable(tensor: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether a tensor fits as it is, or as a half that becomes a float32."""
    is_half = tensor.dtype in _HALVES and expected.dtype == torch.float32
    has_dtype = is_half or tensor.dtype == expected.dtype
    return tensor.shape == expected.shape and has_dtype


def _misfits(weights: StateDict, expected: StateDict) -> list[str]:
    """What has the network's name and not its shape and dtype."""
    lines = []
    for name in sorted(expected.keys() & weights.keys()):
        came = _described(weights[name])
        needed = _described(expected[name])
        if came != needed and not _is_castable(weights[name], expected[name]):
            lines.append(f"{_short(name)} is {came}, not {needed}")
    return lines


def _with_tied(candidate: _Candidate, expected: StateDict) -> _Candidate:
    """With a weight that the file has once under each of its names in the network."""
    weights = dict(candidate.weights)
    for names in _tied_names(expected):
        present = among(names, weights)

        for name in names:
            if present and name not in weights:
                weights[name] = weights[present[0]]
    return _Candidate(candidate.key, weights, candidate.notes)


def _check_tied(weights: StateDict, expected: StateDict, source: str) -> None:
    """Refuses two values for what is one weight in the network."""
    for first, *others in _tied_names(expected):
        for name in others:
            if not torch.equal(weights[first], weights[name]):
                raise TargetError(
                    f"{first!r} and {name!r} are one weight in the network, and {source} has "
                    "two different ones. Untie them in the network, or give it a file with one."
                )


def _tied_names(expected: StateDict) -> list[list[str]]:
    """The names of tensors that are one in memory."""
    groups: dict[object, list[str]] = {}
    for name, tensor in expected.items():
        if tensor.numel():
            place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
            groups.setdefault(place, []).append(name)

    tied = []
    for names in groups.values():
        if len(names) > 1:
            tied.append(names)
    return tied


def _misfit(
    candidates: list[_Candidate],
    expected: StateDict,
    source: str,
    network: str,
    prefix: str | None,
) -> TargetError:
    """What to say of a file none of whose weights fit: what differs, and what would help."""
    most = -1
    closest = candidates[0]
    original = candidates[0]
    for candidate in candidates:
        for naming in _namings(candidate, prefix):
            renamed = _with_norms_of(naming, expected)
            shared = len(renamed.weights.keys() & expected.keys())
            if shared > most:
                most = shared
                closest = renamed
                original = candidate

    problems = _problems(closest.weights, expected)
    under = f" (under {shown(closest.key)})" if closest.key else ""
    message = f"{source}{under} does not fit {network}: {'; '.join(problems)}."
    return TargetError(f"{message} {_remedy(closest.weights, original.weights, expected)}")


def _problems(weights: StateDict, expected: StateDict) -> list[str]:
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    misfits = _misfits(weights, expected)
    problems = []
    if missing:
        problems.append(f"it lacks {_few(missing)}")
    if unknown:
        problems.append(f"the network has no {_few(unknown)}")
    if misfits:
        problems.append(_few(misfits))
    return problems


def _remedy(weights: StateDict, original: StateDict, expected: StateDict) -> str:
    """What to do; `original` are the weights under the names of the file."""
    shared = weights.keys() & expected.keys()
    shapes_differ = any(weights[name].shape != expected[name].shape for name in shared)
    if shapes_differ:
        return "Pass the arguments (--arg) that the network was trained with."
    if len(shared) == len(expected):
        return "Convert the weights to the dtypes of the network, and save them again."

    prefixes = _prefixes_that_fit(original, expected)
    if prefixes:
        options = " or ".join(f"--strip-prefix {shown(prefix)}" for prefix in prefixes)
        return f"Its names fit without a prefix: {options}."
    return (
        f"The file's names begin with {_few(list(original))}; the network's with "
        f"{_few(list(expected))}. Take the network that these weights were trained in, or write "
        "a file with its names."
    )


def _prefixes_that_fit(weights: StateDict, expected: StateDict) -> list[str]:
    """Each text that stands before every one of the network's names in the file."""
    first = next(iter(expected), "")
    prefixes = []
    for name in weights:
        if first and name.endswith(f".{first}"):
            prefix = name.removesuffix(first)
            if all(f"{prefix}{each}" in weights for each in expected):
                prefixes.append(prefix)
    return prefixes


def _described(tensor: torch.Tensor) -> str:
    return describe(str(tensor.dtype).removeprefix("torch."), tensor.shape)


def _few(names: list[str]) -> str:
    first = ", ".join(map(_short, names[:_MOST_NAMES]))
    more = len(names) - _MOST_NAMES
    if more > 0:
        return f"{first} and {more} more"
    return first


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[:_LONGEST]}..."
