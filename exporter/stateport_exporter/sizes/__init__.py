# SPDX-License-Identifier: Apache-2.0
"""Sizes at which a network may behave differently than at those that were tried."""
