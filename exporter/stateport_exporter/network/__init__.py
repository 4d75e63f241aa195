# SPDX-License-Identifier: Apache-2.0
"""The author's module: loaded, isolated, run, and made explicit."""
