# SPDX-License-Identifier: Apache-2.0
"""What a network keeps from call to call, and whether results depend on it."""
