"""Protocols between the layers: what a backend is, where time and randomness come from. No behaviour."""
