"""The mutation suite: networks broken on purpose, each of which `stateport verify` must refuse."""
