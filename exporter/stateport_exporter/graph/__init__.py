# SPDX-License-Identifier: Apache-2.0
"""What all work on graphs shares."""
