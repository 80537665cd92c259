"""Names that mean the same model. Servers disagree on how a model is spelled; clients should not have to care.

`llama3` and `llama3:latest` are one to Ollama; llama.cpp lists `models/Qwen3-8B-Q4_K_M.gguf` (a path, a quantisation, an
extension) for what others call `qwen3-8b`, vLLM `Qwen/Qwen3-8B` (the hub's owner). A name is looked up as it stands first; only
then by its shape, and a shape that several different models share decides nothing.
"""

import re

DEFAULT_TAG = ":latest"
EXTENSIONS = (".gguf", ".safetensors", ".bin")
MAX_CHARACTERS = 500
"""Of a name that has a shape. What is longer is no model's name, and looking into it would keep everybody waiting."""
_QUANTISATION = re.compile(
    r"[-_.:](?:(?:i?q[2-8](?:_[0-9a-z]+)*)|iq[1-4]_[a-z]+|tq[12]_0|[bf]f?16|fp(?:8|16|32)|f32|int[48]|w[48]a(?:8|16)|awq|gptq|mxfp4|nvfp4)$"
)


def shape_of(name: str) -> str:
    """The name without what servers add to it: a default tag, a path, an owner, a quantisation, an extension, capitals."""
    if len(name) > MAX_CHARACTERS:
        return name
    shape = name.lower().removesuffix(DEFAULT_TAG)
    shape = shape.rstrip("/").rsplit("/", 1)[-1]
    for extension in EXTENSIONS:
        shape = shape.removesuffix(extension)
    while (shorter := _QUANTISATION.sub("", shape)) != shape and shorter:
        shape = shorter
    return shape
