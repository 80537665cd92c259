"""Forms: whatever they hold, each part is found where it stands, and no bytes whatever are a crash."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from trunkline.model.errors import RequestError
from trunkline.server.operation_body import FORM, read_operation
from trunkline.wire.multipart import MalformedForm, boundary_of, parts_of

BOUNDARY = b"frontier"
names = st.text(st.characters(codec="utf-8", exclude_characters='"\\\r\n'), max_size=20)
contents = st.binary(max_size=200).filter(lambda content: b"\r\n--" + BOUNDARY not in b"\r\n" + content + b"\r\n--")
pieces = st.sampled_from(
    [
        b"--",
        b"\r\n",
        BOUNDARY,
        b"--frontier",
        b"\r\n--frontier",
        b'name="model"',
        b"Content-Disposition: form-data; ",
        b"x",
    ]
)


def written(parts: list[tuple[str, bytes]]) -> bytearray:
    body = bytearray()
    for name, content in parts:
        body += b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (BOUNDARY, name.encode(), content)
    return body + b"--%b--\r\n" % BOUNDARY


@given(st.lists(st.tuples(names, contents), min_size=1, max_size=5))
def test_every_part_is_found_where_it_stands(parts: list[tuple[str, bytes]]) -> None:
    body = written(parts)
    found = [(part.name, bytes(body[part.start : part.end])) for part in parts_of(body, BOUNDARY)]
    assert found == parts


@given(st.lists(st.tuples(names.filter(lambda name: name not in ("model", "stream")), contents), max_size=4), st.data())
def test_only_the_model_changes(others: list[tuple[str, bytes]], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(others)))
    parts = [*others[:place], ("model", b"asked"), *others[place:]]
    read = read_operation(written(parts), f"{FORM}; boundary=frontier", takes=frozenset({FORM}))
    assert read.model == "asked"
    assert b"".join([*read.before, b"theirs", *read.after]) == written(
        [*others[:place], ("model", b"theirs"), *others[place:]]
    )


@given(st.lists(st.tuples(names.filter(lambda name: name not in ("model", "stream")), contents), max_size=4))
def test_a_form_without_a_model_gets_one(others: list[tuple[str, bytes]]) -> None:
    read = read_operation(written(others), f"{FORM}; boundary=frontier", takes=frozenset({FORM}))
    assert read.model is None
    assert b"".join([*read.before, b"ours", *read.after]) == written([("model", b"ours"), *others])


@given(st.lists(pieces | st.binary(max_size=5), max_size=20).map(b"".join))
def test_nothing_else_is_a_crash(body: bytes) -> None:
    with contextlib.suppress(MalformedForm):
        for part in parts_of(body, BOUNDARY):
            assert 0 <= part.start <= part.end <= len(body)
    with contextlib.suppress(RequestError):
        read_operation(bytearray(body), f"{FORM}; boundary=frontier", takes=frozenset({FORM}))


def test_boundaries_are_read_as_clients_write_them() -> None:
    for text, boundary in (
        ("multipart/form-data; boundary=abc", b"abc"),
        ('multipart/form-data; charset=utf-8; Boundary="a b:c"', b"a b:c"),
        ("multipart/form-data;boundary=----x--;a=b", b"----x--"),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
    ):
        assert boundary_of(text) == boundary
