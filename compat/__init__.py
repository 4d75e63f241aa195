"""What pyproject.toml promises, tried: each lower bound, the newest versions, each Python."""
