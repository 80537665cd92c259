"""For tests of trunkline itself and of plugins: ports that do not move by themselves, and a reader of backends."""
