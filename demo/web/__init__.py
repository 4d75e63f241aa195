"""The page that shows two networks in a browser; `make web` builds and serves it."""
