"""The `embedded` backend: llama.cpp in this process, and a small model that answers at once.

    prompt       a request as the body of one engine call
    schemas      JSON Schema in the form the engine's grammar can enforce
    slots        who may use the engine's slots, first come first served
    engine       the engine itself: loading, one thread per call, cancelling, unloading
    embeddings   texts as vectors, by an engine of their own
    answer       the engine's chunks as events; `calls` reads the tool calls it was made to write
    backend      the port

Waiting OpenMP threads must sleep, not spin: with more threads than free cores, spinning costs nine tenths of the
speed (2 to 5 tokens per second instead of 54, SmolLM2-135M on two busy cores). OpenMP reads its environment when the
library is loaded, so it is set here, before any module of this package imports the engine.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # noqa: TID251 - written for a library, not read as a setting

from trunkline.backends.embedded.backend import EmbeddedBackend, build

__all__ = ["EmbeddedBackend", "build"]
