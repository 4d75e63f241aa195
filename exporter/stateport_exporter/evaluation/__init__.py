# SPDX-License-Identifier: Apache-2.0
"""A graph in float64, node by node."""
