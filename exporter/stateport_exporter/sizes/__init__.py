"""The sizes at which a network may do otherwise than where it was tried."""
