"""Whether a network can run chunk by chunk, and why not."""
