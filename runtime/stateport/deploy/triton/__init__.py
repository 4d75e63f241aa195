# SPDX-License-Identifier: Apache-2.0
"""Model repositories for NVIDIA's Triton server: writing them, and checking those of others."""
