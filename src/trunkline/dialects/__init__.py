"""Wire formats as pure code. A dialect serves a client in front and a backend behind with the same codec; it does no I/O."""
