"""Framing: bytes in, frames out, whatever the split. Knows nothing of what is inside a frame."""
