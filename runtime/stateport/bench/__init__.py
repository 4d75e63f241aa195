"""Measuring a model on engines, side by side. No PyTorch."""
