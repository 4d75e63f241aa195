"""Values that nobody knows, as what a network keeps from call to call is many calls later.

An unknown value holds what it is now, so that forward runs on it. What is computed from it is
unknown as well. Where forward asks something about it, `Questions` says what the answer is: the one
that is true now, or in another run the other one. What can be answered in more ways than these two
(a length, an index, an integer) is refused.
"""

from __future__ import annotations

import copy
import dis
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from types import FrameType
from typing import Any, Final, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..network.blame import Line, author_line

#: So many questions in one call are too many.
_MOST_QUESTIONS: Final = 10_000


class UnknownValueError(Exception):
    """Forward wants to know an unknown value itself."""


class Questions:
    """What forward asks of unknown values in one run, and what it is answered.

    The first questions get `answers`, the others what is true now. `refused` is what cannot be
    answered: the name of the value and the author's line.
    """

    def __init__(self, answers: Sequence[bool] = ()) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Line | None, bool]] = []
        self.refused: tuple[str, Line | None] | None = None

    def ask(self, name: str, now: bool) -> bool:
        """Answers whether something holds that holds now, or does not."""
        count = len(self.asked)
        if count >= _MOST_QUESTIONS:
            self.refuse(name)
        answer = self.answers[count] if count < len(self.answers) else now
        self.asked.append((name, author_line(), answer))
        return answer

    def refuse(self, name: str) -> NoReturn:
        """Gives no answer.

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
    """The value as an unknown one, called `name`; of a `sized` tensor the shape is known."""
    if isinstance(value, Tensor) and sized:
        tensor = value.detach().clone().as_subclass(UnknownTensor)
        tensor.unknown_name = name
        return tensor
    return Unknown(value, name)


def name_of(value: Any) -> str | None:
    """The name of an unknown value, None for a known one."""
    kind = type(value)
    if kind is Unknown:
        return str(object.__getattribute__(value, "_name"))
    return str(value.unknown_name) if kind is UnknownTensor else None


def for_unknown(function: Callable[..., Any]) -> Callable[..., Any]:
    """A built-in function as `len`, for unknown values too."""

    def compute(*args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and type(args[0]) is Unknown:
            return args[0]._computed(lambda value: function(value, **kwargs))
        return function(*args, **kwargs)

    return compute


class Unknown:
    """An unknown value of any kind."""

    def __init__(self, value: Any, name: str) -> None:
        object.__setattr__(self, "_value", value)
        object.__setattr__(self, "_name", name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """For `isinstance`, it is of the kind of its value."""
        return type(object.__getattribute__(self, "_value"))

    def _computed(self, function: Callable[..., Any], *operands: Any) -> Any:
        """What a function makes of the value and others, unknown as well; None stays None.

        Behind an answer that is not true now, it may fail: what it gives then is not known either.
        """
        value, *others = (_now(each) for each in (self, *operands))
        try:
            result = function(value, *others)
        except Exception:  # whatever the author's value raises
            return Unknown(None, self._name)
        return None if result is None else Unknown(result, self._name)

    def _ask(self, now: Any) -> bool:
        return _QUESTIONS.get().ask(self._name, bool(_now(now)))

    def _refuse(self, *_: Any) -> NoReturn:
        _QUESTIONS.get().refuse(self._name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what libraries ask of a value to see of what kind it is
            raise AttributeError(name)
        return self._computed(getattr, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._computed(setattr, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._computed(operator.getitem, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._computed(operator.setitem, key, value)

    def __delitem__(self, key: Any) -> None:
        self._computed(operator.delitem, key)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the value gives, unknown as well."""
        return self._computed(lambda f, *given: f(*given, **kwargs), *args)

    def __next__(self) -> Any:
        return self._computed(next)

    def __bool__(self) -> bool:
        return self._ask(self._value)

    def __contains__(self, item: Any) -> bool:
        return self._ask(self._computed(operator.contains, item))

    def __copy__(self) -> Any:
        return self._computed(copy.copy)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self._computed(copy.deepcopy)

    def __str__(self) -> str:
        return str(self._value)

    def __repr__(self) -> str:
        return repr(self._value)

    def __format__(self, how: str) -> str:
        return format(self._value, how)

    def __index__(self) -> Any:
        return self._value if _formats(sys._getframe(1)) else self._refuse()

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
        return _through(func, args, kwargs or {}, loose=True)


def _formats(frame: FrameType) -> bool:
    """Whether a number is wanted for a text, as in `"%d calls" % calls`."""
    code, at = frame.f_code.co_code, frame.f_lasti
    return dis.opname[code[at]] == "BINARY_OP" and code[at + 1] in _REMAINDER


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
        return _through(func, args, kwargs or {}, loose=any(t is Unknown for t in types))


_TWO: Final = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("and_", "or_", "xor", "lshift", "rshift"),
)


def _equip() -> None:
    """Gives unknown values Python's operators."""
    for name in _TWO:
        operation, plain = getattr(operator, name), name.strip("_")
        setattr(Unknown, f"__{plain}__", _operator(operation))
        setattr(Unknown, f"__r{plain}__", _operator(lambda a, b, f=operation: f(b, a)))
    for name in ("neg", "pos", "abs", "invert", "lt", "le", "gt", "ge", "eq", "ne"):
        setattr(Unknown, f"__{name}__", _operator(getattr(operator, name)))
    setattr(Unknown, "__round__", _operator(round))  # noqa: B010
    setattr(Unknown, "__divmod__", lambda a, b: (a // b, a % b))  # noqa: B010


def _operator(operation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *others: self._computed(operation, *others)


_equip()


class Copies(TorchFunctionMode):
    """What makes tensors of values makes unknown ones of unknown values: it asks no value."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The protocol of `TorchFunctionMode`."""
        if func in _COPYING:
            named = map(name_of, pytree.tree_leaves((args, dict(kwargs or {}))))
            if any(name is not None for name in named):
                return _through(func, args, kwargs or {}, loose=True)
        return func(*args, **(kwargs or {}))


_COPYING: Final = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
#: What is known of a tensor whose shape is.
_KNOWN: Final = frozenset(
    {"size", "dim", "ndimension", "numel", "nelement", "stride", "storage_offset", "element_size"}
    | {"type", "is_floating_point", "is_complex", "is_contiguous", "is_signed", "get_device"}
    | {"data_ptr", "untyped_storage", "is_same_size", "result_type"}
    | {"__len__", "__hash__", "__repr__", "__format__", "__deepcopy__", "__reduce_ex__"}
)


def _through(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, loose: bool
) -> Any:
    """Calls a function of PyTorch on values as they are now; what it gives is unknown."""
    every = pytree.tree_leaves((args, dict(kwargs)))
    name = next(named for named in map(name_of, every) if named is not None)
    how = func.__name__
    now_args, now_kwargs = pytree.tree_map(_now, (args, dict(kwargs)))
    with torch._C.DisableTorchFunctionSubclass():
        result = func(*now_args, **now_kwargs)
    written = args[0] if args and isinstance(args[0], Tensor) else kwargs.get("out")
    if type(written) is Tensor and (how == "__setitem__" or result is written):
        for tensor in (written, written._base):  # what it is a view of has become unknown, too
            if type(tensor) is Tensor:
                tensor.__class__ = UnknownTensor
                tensor.unknown_name = name  # type: ignore[attr-defined]
        return result
    if how in ("__bool__", "__contains__"):
        return _QUESTIONS.get().ask(name, bool(result))
    if how in ("__int__", "__float__", "__index__", "__complex__", "__array__"):
        _QUESTIONS.get().refuse(name)
    if how == "__iter__":
        return iter([_wrapped(each, name, loose=loose) for each in result])
    known = how in _KNOWN or (how == "__get__" and not isinstance(result, Tensor))
    if known and not loose:
        return result
    return pytree.tree_map(lambda each: _wrapped(each, name, loose=loose), result)


def _wrapped(value: Any, name: str, *, loose: bool) -> Any:
    if value is None or type(value) is Unknown:
        return value
    if not isinstance(value, Tensor) or loose:
        return Unknown(value, name)
    tensor = value if type(value) is UnknownTensor else value.as_subclass(UnknownTensor)
    tensor.unknown_name = name
    return tensor


def _now(value: Any) -> Any:
    """What a value is now."""
    if type(value) is Unknown:
        return object.__getattribute__(value, "_value")
    if isinstance(value, np.ndarray) or not isinstance(value, list | tuple | slice | dict):
        return value
    if isinstance(value, slice):
        return slice(_now(value.start), _now(value.stop), _now(value.step))
    return (
        pytree.tree_map(_now, value) if any(map(_is_unknown, pytree.tree_leaves(value))) else value
    )


def _is_unknown(value: Any) -> bool:
    return type(value) is Unknown
