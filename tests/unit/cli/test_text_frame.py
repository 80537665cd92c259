"""What is written to a WebSocket without its library is what the library reads."""

import pytest
from websockets.frames import Frame, Opcode

from trunkline.cli.socket_protocol import text_frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 200_000])
def test_a_frame_is_byte_for_byte_the_librarys(size: int) -> None:
    data = b"a" * size
    assert text_frame(data) == Frame(Opcode.TEXT, data).serialize(mask=False)
