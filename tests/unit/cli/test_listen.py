"""The listening socket and the sentence when there is none."""

import contextlib
import socket

import pytest

from trunkline.cli.listen import base_url, listen
from trunkline.model.errors import ConfigError


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("localhost", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:1"),
        ("::1", "http://[::1]:1"),
        ("::", "http://[::1]:1"),
        ("my-host", "http://my-host:1"),
    ],
)
def test_the_url_is_one_that_this_machine_can_open(host: str, url: str) -> None:
    assert base_url(host, port=1) == url


def test_it_listens_before_anything_accepts() -> None:
    with contextlib.closing(listen("127.0.0.1", port=0)) as listener:
        socket.create_connection(listener.getsockname()).close()


@pytest.mark.parametrize(
    ("host", "expected"), [("256.1.1.1", "no such address or host name"), ("a b", "no such address")]
)
def test_an_address_that_is_none_is_named(host: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        listen(host, port=0)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1 is not an address of this machine"):
        listen("192.0.2.1", port=0)
