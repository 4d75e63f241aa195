"""What in a network is to blame when it cannot be traced: which layer, and what it still holds."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils import _pytree as pytree


def where(network: nn.Module, error: BaseException) -> str:
    """The innermost part of the network that was running: " in 'encoder.gru'", or nothing."""
    paths = {id(module): path for path, module in network.named_modules()}
    found, frame = "", error.__traceback__
    while frame is not None:
        found = paths.get(id(frame.tb_frame.f_locals.get("self")), found)
        frame = frame.tb_next
    return f" in {found!r}" if found else ""


def leftovers(network: nn.Module) -> str:
    """A sentence on the tensors that modules keep in attributes, as from an earlier call."""
    kept = [
        f"{path}.{name}".removeprefix(".")
        for path, module in network.named_modules()
        for name, value in vars(module).items()
        if not name.startswith("_")
        and any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))
    ]
    if not kept:
        return ""
    return (
        f" The network keeps tensors in {', '.join(map(repr, kept))}: if they have the batch of an "
        "earlier call, reset them before it is exported."
    )
