"""The path of one call: routing, admission, the backend, and what happens between its events and the surface."""
