# SPDX-License-Identifier: Apache-2.0
"""The exporter's commands: one file each. `stateport` finds them by entry points."""
