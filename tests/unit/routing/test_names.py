"""How servers spell one model."""

import pytest

from trunkline.routing.names import shape_of


@pytest.mark.parametrize(
    ("listed", "asked"),
    [
        ("llama3:latest", "llama3"),
        ("models/Qwen3-8B-Q4_K_M.gguf", "qwen3-8b"),
        ("Qwen/Qwen3-8B", "Qwen3-8B"),
        ("qwen3:8b-q4_K_M", "qwen3:8b"),
        ("TheBloke/phi-2:Q8_0", "phi-2"),
        ("meta-llama/Llama-3-70B-FP8", "llama-3-70b"),
        ("mistral-7b-IQ4_XS.gguf", "mistral-7b"),
        ("/srv/models/smollm2/", "smollm2"),
    ],
)
def test_a_model_is_found_under_the_name_people_use(listed: str, asked: str) -> None:
    assert shape_of(listed) == shape_of(asked) == asked.lower()


@pytest.mark.parametrize(("one", "other"), [("qwen3:8b", "qwen3:4b"), ("gpt-4o", "gpt-4o-mini"), ("q4", "f16")])
def test_different_models_stay_different(one: str, other: str) -> None:
    assert shape_of(one) != shape_of(other)


@pytest.mark.parametrize("piece", ["-q4", "_q4", "/", ".gguf"])
def test_a_text_that_is_no_name_is_looked_at_no_further(piece: str) -> None:
    for long in (f"x{piece * 200_000}", f"{piece * 200_000}!"):
        assert shape_of(long) == long
