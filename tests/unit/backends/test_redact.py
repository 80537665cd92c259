"""What an agent's exception text loses before a client reads it."""

import pytest

from trunkline.backends.redact import redacted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("401 with Bearer abc.DEF-123", "401 with Bearer [redacted]"),
        ("headers: {'Authorization': 'Bearer abc.DEF-123'}", "headers: {'Authorization': 'Bearer [redacted]'}"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic [redacted]"),
        ("Incorrect API key provided: sk-proj-a1b2c3d4e5", "Incorrect API key provided: [redacted]"),
        ("GET https://api.x/v1?key=abc123&q=cats failed", "GET https://api.x/v1?key=[redacted]&q=cats failed"),
        ("GET https://x/?api_key=abc&access_token=def", "GET https://x/?api_key=[redacted]&access_token=[redacted]"),
        ("postgres://bob:hunter2@db:5432/x is down", "postgres://[redacted]@db:5432/x is down"),
        ("connect(user=bob password=hunter2)", "connect(user=bob password=[redacted])"),
        ('{"password": "two words", "user": "bob"}', '{"password": [redacted], "user": "bob"}'),
        ("OPENAI_API_KEY='abc' is wrong", "OPENAI_API_KEY=[redacted] is wrong"),
        ("client_secret: s3cr3t, tenant: x", "client_secret: [redacted], tenant: x"),
        ("AKIAIOSFODNN7EXAMPLE denied", "[redacted] denied"),
        ("push with ghp_16C7e42F292c6912E7", "push with [redacted]"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln expired", "jwt [redacted] expired"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY----- bad", "[redacted] bad"),
    ],
)
def test_secrets_are_taken_out(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Provider failed",
        "KeyError: 'city'",
        "context of 4096 tokens is full; 12 tokens too many",
        "basic configuration is missing",
        "https://example.com/path?page=2 gave 404",
        "the risk-based approach",
        "no such file: 'monkey.txt'",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_a_long_text_is_cut_and_says_so() -> None:
    assert redacted("x" * 501) == "x" * 499 + "…"
    assert redacted("x" * 500) == "x" * 500


def test_half_a_secret_at_the_end_of_what_is_read_does_not_show() -> None:
    text = "password=" + "y" * 900 + " " + "token=" + "z" * 900 + " " + "a " * 85 + "sk-abcdef1234567890"
    assert "sk-" not in redacted(text)


def test_a_hostile_text_costs_little() -> None:
    for text in ("a-" * 1_000_000, "eyJ" * 1_000_000, "://" * 1_000_000, "-----BEGIN PRIVATE KEY-----" * 100_000):
        assert len(redacted(text)) <= 500
