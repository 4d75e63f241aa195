"""Finding the fastest plan for a load among those that pass verification. No PyTorch."""

from .variants import Variant

__all__ = ["Variant"]
