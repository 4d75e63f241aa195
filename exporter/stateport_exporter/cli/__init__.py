"""The exporter's commands: one file each. `stateport` finds them by entry points."""
