"""Sizes at which a network may behave differently than at those that were tried."""
