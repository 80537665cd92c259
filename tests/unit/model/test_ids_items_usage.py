"""The small values."""

from trunkline.model.ids import new_id
from trunkline.model.items import ImagePart, RefusalPart, TextPart, text_of
from trunkline.model.usage import Usage


class Counted:
    def hex(self, size_bytes: int) -> str:
        return "ab" * size_bytes


def test_ids_have_96_bits() -> None:
    assert new_id("msg_", Counted()) == "msg_" + "ab" * 12


def test_text_of_takes_text_parts_only() -> None:
    parts = (TextPart("a"), ImagePart(url="u"), RefusalPart("r"), TextPart("b"))
    assert text_of(parts) == "ab"
    assert text_of(parts, separator="\n") == "a\nb"


def test_an_unknown_count_is_not_zero() -> None:
    usage = Usage(input_tokens=2, output_tokens=3)
    assert usage.total_tokens == 5
    assert usage.cached_tokens is None
