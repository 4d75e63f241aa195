"""Finding the quickest plan for a load, among those that pass verification. No PyTorch."""

from .variant import Variant

__all__ = ["Variant"]
