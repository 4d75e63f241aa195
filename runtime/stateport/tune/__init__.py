# SPDX-License-Identifier: Apache-2.0
"""Finding the fastest plan for a load among those that pass verification. No PyTorch."""

from .variants import Variant

__all__ = ["Variant"]
