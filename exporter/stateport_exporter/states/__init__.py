# SPDX-License-Identifier: Apache-2.0
"""Which arguments and results are states, and which states a network hides."""
