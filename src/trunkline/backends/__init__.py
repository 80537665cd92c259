"""Whatever answers, one module per transport, each behind `ports.backend.Backend`. Loaded by `plugins`, built by `assembly`."""
