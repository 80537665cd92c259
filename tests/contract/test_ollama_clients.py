"""Ollama's official client over every kind of backend, the real model included."""

from pathlib import Path

import ollama
import pytest

from tests.contract.test_every_backend import KINDS, served

ASK = [{"role": "user", "content": "one two three"}]
OPTIONS = {"num_predict": 8, "temperature": 0}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_of_ollama_is_served(kind: str, tmp_path: Path) -> None:
    """One server and one story, for a real model is not loaded once per sentence."""
    async with served(kind, tmp_path) as (server, model):
        client = ollama.AsyncClient(host=server.url, trust_env=False)
        try:
            assert [one.model for one in (await client.list()).models] == [model]
            assert (await client.show(model)).capabilities
            whole = await client.chat(model, ASK, options=OPTIONS)
            assert whole.done
            assert whole.done_reason in ("stop", "length")
            assert whole.message.content
            pieces = [piece async for piece in await client.chat(model, ASK, options=OPTIONS, stream=True)]
            assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content
            assert pieces[-1].done_reason == whole.done_reason
            told = await client.generate(model, "one two three", options=OPTIONS)
            assert told.response
            assert told.done
            assert (await client.generate(model)).done_reason == "load"
            if kind == "embedded":
                assert [one.model for one in (await client.ps()).models] == [model]
                vectors = (await client.embed(model, ["one", "two"])).embeddings
                assert len({len(vector) for vector in vectors}) == 1
                assert vectors[0] != vectors[1]
            with pytest.raises(ollama.ResponseError) as refused:
                await client.chat("no-such-model", ASK)
            assert refused.value.status_code == 404
        finally:
            await client.close()  # type: ignore[no-untyped-call]  # the client has no types there
