# SPDX-License-Identifier: Apache-2.0
"""Servers of streams side by side, under the same load: `make bench-serve`."""
