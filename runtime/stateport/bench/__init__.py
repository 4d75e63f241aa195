# SPDX-License-Identifier: Apache-2.0
"""Measuring a model on engines, side by side. No PyTorch."""
