# SPDX-License-Identifier: Apache-2.0
"""PyTorch's answers: on what a network is run, and what it gives."""
