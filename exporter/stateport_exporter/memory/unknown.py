# SPDX-License-Identifier: Apache-2.0
"""Unknown values: what a network keeps from call to call, as it may be many calls later.

An unknown value holds its value of now, so that forward can run on it. What is computed from it is
unknown as well. When forward needs a decision about it, `Questions` gives the answer: the one that
is true now, or in another run the opposite. What has more possible answers than these two (a
length, an index, an integer) is refused.
"""

from __future__ import annotations

import copy
import dis
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import FrameType
from typing import Any, Final, NoReturn

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..network.blame import Line, author_line

#: A call that asks more questions is refused.
_MOST_QUESTIONS: Final = 10_000


class UnknownValueError(Exception):
    """Forward needs an unknown value itself."""


class Questions:
    """Records what forward asks about unknown values in one run, and gives the answers.

    Args:
        answers: the answers to the first questions; the others get what is true now.

    Attributes:
        asked: the name of the value, the author's line and the answer, for each question.
        refused: the name and line of the first question that cannot be answered, if there is one.
    """

    def __init__(self, answers: Sequence[bool] = ()) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Line | None, bool]] = []
        self.refused: tuple[str, Line | None] | None = None

    def ask(self, name: str, now: bool) -> bool:
        """Answers a question whose answer is `now` at present.

        Raises:
            UnknownValueError: there are too many questions.
        """
        count = len(self.asked)
        if count >= _MOST_QUESTIONS:
            self.refuse(name)

        answer = self.answers[count] if count < len(self.answers) else now
        self.asked.append((name, author_line(), answer))
        return answer

    def refuse(self, name: str) -> NoReturn:
        """Refuses to answer.

        Raises:
            UnknownValueError: always.
        """
        self.refused = self.refused or (name, author_line())
        raise UnknownValueError(f"{name} is not known")

    def __enter__(self) -> Questions:
        self._token = _QUESTIONS.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _QUESTIONS.reset(self._token)


_QUESTIONS: ContextVar[Questions] = ContextVar("_QUESTIONS")


def unknown(value: Any, name: str, *, sized: bool = False) -> Any:
    """The value as an unknown one with this name; with `sized`, the shape of a tensor is known."""
    if isinstance(value, Tensor) and sized:
        tensor = value.detach().clone().as_subclass(UnknownTensor)
        tensor.unknown_name = name
        return tensor

    return Unknown(value, name)


def name_of(value: Any) -> str | None:
    """The name of an unknown value, None for a known one."""
    # `type`, because an unknown value claims the class of its value.
    kind = type(value)
    if kind is Unknown:
        return str(object.__getattribute__(value, "_name"))
    if kind is UnknownTensor:
        return str(value.unknown_name)

    return None


def for_unknown(function: Callable[..., Any]) -> Callable[..., Any]:
    """A built-in function, as `len`, that takes unknown values too."""

    def compute(*args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and type(args[0]) is Unknown:
            return args[0]._compute(lambda value: function(value, **kwargs))

        return function(*args, **kwargs)

    return compute


class Unknown:
    """An unknown value of any kind."""

    def __init__(self, value: Any, name: str) -> None:
        object.__setattr__(self, "_value", value)
        object.__setattr__(self, "_name", name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class of the value, for `isinstance`."""
        return type(object.__getattribute__(self, "_value"))

    def _compute(self, function: Callable[..., Any], *operands: Any) -> Any:
        """The result of a function of the value and others, unknown as well; None stays None.

        After an answer that is not true now, the function may fail: its result is unknown then too.
        """
        value, *known_operands = map(_now, (self, *operands))
        try:
            result = function(value, *known_operands)
        except Exception:  # the author's values may raise anything
            return Unknown(None, self._name)

        if result is None:
            return None
        return Unknown(result, self._name)

    def _ask(self, now: Any) -> bool:
        return _QUESTIONS.get().ask(self._name, bool(_now(now)))

    def _refuse(self, *_: Any) -> NoReturn:
        _QUESTIONS.get().refuse(self._name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # libraries ask for these to see what kind of value it is
            raise AttributeError(name)

        return self._compute(getattr, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._compute(setattr, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._compute(operator.getitem, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._compute(operator.setitem, key, value)

    def __delitem__(self, key: Any) -> None:
        self._compute(operator.delitem, key)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The result of calling the value, unknown as well."""
        return self._compute(lambda function, *known: function(*known, **kwargs), *args)

    def __next__(self) -> Any:
        return self._compute(next)

    def __bool__(self) -> bool:
        return self._ask(self._value)

    def __contains__(self, item: Any) -> bool:
        return self._ask(self._compute(operator.contains, item))

    def __copy__(self) -> Any:
        return self._compute(copy.copy)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self._compute(copy.deepcopy)

    def __str__(self) -> str:
        return str(self._value)

    def __repr__(self) -> str:
        return repr(self._value)

    def __format__(self, how: str) -> str:
        return format(self._value, how)

    def __index__(self) -> Any:
        if _formats(sys._getframe(1)):
            return self._value
        return self._refuse()

    __int__ = __float__ = __index__
    __len__ = __iter__ = __hash__ = __complex__ = __array__ = __reduce_ex__ = _refuse

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The protocol of PyTorch: what is computed from unknown values has an unknown shape."""
        return _call_on_unknown(func, args, kwargs or {}, loose=True)


def _formats(frame: FrameType) -> bool:
    """Whether a number is needed for a text, as in `"%d calls" % calls`."""
    code = frame.f_code.co_code
    position = frame.f_lasti
    return dis.opname[code[position]] == "BINARY_OP" and code[position + 1] in _REMAINDER


#: Python's numbers of the operators % and %=.
_REMAINDER: Final = (6, 19)


class UnknownTensor(Tensor):
    """A tensor of a known shape whose values are unknown."""

    unknown_name: str

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The protocol of PyTorch."""
        loose = any(kind is Unknown for kind in types)
        return _call_on_unknown(func, args, kwargs or {}, loose=loose)


#: Python's operators of two operands, which have a reflected form.
_TWO: Final = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("and_", "or_", "xor", "lshift", "rshift"),
)


def _equip() -> None:
    """Gives unknown values Python's operators."""
    for name in _TWO:
        operation = getattr(operator, name)
        plain = name.strip("_")
        setattr(Unknown, f"__{plain}__", _operator(operation))
        setattr(Unknown, f"__r{plain}__", _operator(lambda a, b, f=operation: f(b, a)))

    for name in ("neg", "pos", "abs", "invert", "lt", "le", "gt", "ge", "eq", "ne"):
        setattr(Unknown, f"__{name}__", _operator(getattr(operator, name)))

    setattr(Unknown, "__round__", _operator(round))  # noqa: B010
    setattr(Unknown, "__divmod__", lambda a, b: (a // b, a % b))  # noqa: B010


def _operator(operation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *operands: self._compute(operation, *operands)


_equip()


class Copies(TorchFunctionMode):
    """Makes unknown tensors where the author makes tensors of unknown values.

    PyTorch's functions for that would ask for the values.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The protocol of `TorchFunctionMode`."""
        is_copying = func in _COPYING
        if is_copying and next(_names_in(args, kwargs or {}), None) is not None:
            return _call_on_unknown(func, args, kwargs or {}, loose=True)

        return func(*args, **(kwargs or {}))


_COPYING: Final = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
#: The functions whose result is known if the shape of the tensor is.
_KNOWN: Final = frozenset(
    {"size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "element_size"}
    | {"type", "is_floating_point", "is_complex", "is_contiguous", "is_signed", "get_device"}
    | {"data_ptr", "untyped_storage", "is_same_size", "result_type"}
    | {"__len__", "__hash__", "__repr__", "__format__", "__deepcopy__", "__reduce_ex__"}
)


def _call_on_unknown(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, loose: bool
) -> Any:
    """Calls a function of PyTorch on the values of now; its result is unknown.

    With `loose`, the shape of the result is unknown too.
    """
    name = next(_names_in(args, kwargs))
    now_args, now_kwargs = pytree.tree_map(_now, (args, dict(kwargs)))
    with torch._C.DisableTorchFunctionSubclass():
        result = func(*now_args, **now_kwargs)

    written = args[0] if args and isinstance(args[0], Tensor) else kwargs.get("out")
    is_written = func.__name__ == "__setitem__" or result is written
    if is_written and type(written) is Tensor:
        _make_unknown(written, name)
        return result

    return _hide_result(func.__name__, result, name, loose=loose)


def _names_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[str]:
    """The names of the unknown values among arguments."""
    for leaf in pytree.tree_leaves((args, dict(kwargs))):
        name = name_of(leaf)
        if name is not None:
            yield name


def _make_unknown(tensor: Tensor, name: str) -> None:
    """Makes a tensor into which an unknown value was written unknown, and the one it views."""
    for changed in (tensor, tensor._base):
        if type(changed) is Tensor:
            changed.__class__ = UnknownTensor
            changed.unknown_name = name  # type: ignore[attr-defined]


def _hide_result(function: str, result: Any, name: str, *, loose: bool) -> Any:
    """The result of a function as an unknown value, or the answer to a question about it."""
    if function in ("__bool__", "__contains__"):
        return _QUESTIONS.get().ask(name, bool(result))
    if function in ("__int__", "__float__", "__index__", "__complex__", "__array__"):
        _QUESTIONS.get().refuse(name)
    if function == "__iter__":
        return iter([_hide(item, name, loose=loose) for item in result])

    is_attribute = function == "__get__" and not isinstance(result, Tensor)
    if not loose and (is_attribute or function in _KNOWN):
        return result

    return pytree.tree_map(lambda leaf: _hide(leaf, name, loose=loose), result)


def _hide(value: Any, name: str, *, loose: bool) -> Any:
    """The value as an unknown one. None, and what is unknown already, is returned as it is."""
    if value is None or type(value) is Unknown:
        return value
    if not isinstance(value, Tensor) or loose:
        return Unknown(value, name)

    tensor = value if type(value) is UnknownTensor else value.as_subclass(UnknownTensor)

    tensor.unknown_name = name
    return tensor


def _now(value: Any) -> Any:
    """The value of now, also in place of unknown values in containers and slices."""
    if type(value) is Unknown:
        return object.__getattribute__(value, "_value")
    if isinstance(value, slice):
        return slice(_now(value.start), _now(value.stop), _now(value.step))
    # Other values stay as they are, so that containers keep their identity.
    if isinstance(value, list | tuple | dict) and any(map(_is_unknown, pytree.tree_leaves(value))):
        return pytree.tree_map(_now, value)

    return value


def _is_unknown(value: Any) -> bool:
    return type(value) is Unknown
