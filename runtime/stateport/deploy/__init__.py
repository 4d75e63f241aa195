# SPDX-License-Identifier: Apache-2.0
"""Writing what other people's servers need to run a model's streams."""
