# SPDX-License-Identifier: Apache-2.0
"""What one core and one store carry, for docs/scaling.md."""
