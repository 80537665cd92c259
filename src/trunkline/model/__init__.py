"""Values: requests, items, events, turns, usage and errors. No I/O, no clock, no randomness below this line."""
