# SPDX-License-Identifier: Apache-2.0
"""Whether an engine gives PyTorch's answers: recorded vectors, comparison, report. No PyTorch."""
