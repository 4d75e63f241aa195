# SPDX-License-Identifier: Apache-2.0
"""Whether a network can run chunk by chunk, and why not."""
