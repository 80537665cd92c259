"""The command line: `trunkline serve` and `trunkline check`."""
