"""The author's module: loaded, isolated, run, and made explicit."""
