"""The reference networks: small enough to read in one sitting, real enough to be useful."""
