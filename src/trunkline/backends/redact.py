"""Takes secrets and addresses out of a text that somebody outside may read, and bounds it.

An agent's exception text reaches the client (decision 39), and such texts quote requests, URLs and settings. The
rules recognise a secret by its shape or by the name it is given; they prefer to take too much. They are, in order:

    credentials of a URL        https://user:pass@host         the part before the @
    authorization               Bearer x, Authorization: y x   the token
    named secrets               password=x, "api_key": "x",    the value; also passwd, pwd, secret, token, access_key, …
                                ?key=x&sig=x
    keys with a known prefix    sk-…, ghp_…, xoxb-…, AKIA…,    the whole key
                                AIza…, hf_…, glpat-…
    JSON web tokens             eyJ….….…                       the whole token
    private keys                -----BEGIN … PRIVATE KEY-----  the whole block
"""

import re
from collections.abc import Iterable

LIMIT = 500
HIDDEN = "[redacted]"

_NAMED = (
    r"(?:[a-z0-9_-]{0,40}(?:password|passwd|passphrase|secret|credential)s?"
    r"|[a-z0-9_-]{0,40}(?:api|access|auth|private|session|secret|signing|account|subscription)[_-]?(?:key|token)"
    r"|[a-z0-9_-]{0,40}[_-]token|token|pwd|x-amz-signature|signature)"
)

_BEFORE = rf"\g<keep>{HIDDEN}"


def _rule(pattern: str, replacement: str = _BEFORE) -> tuple[re.Pattern[str], str]:
    return re.compile(pattern, re.IGNORECASE | re.DOTALL), replacement


_RULES = (
    _rule(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", HIDDEN),
    _rule(r"(?P<keep>\b[a-z][a-z0-9+.-]{0,30}://)[^/\s@\"'<>]+@", rf"{_BEFORE}@"),
    _rule(r"(?P<keep>\bbearer\s+)[\w.~+/=:-]{4,}"),
    _rule(r"(?P<keep>\bauthorization[\"']?\s*[:=]\s*[\"']?(?:basic|digest|token|apikey)\s+)[^\s\"',]+"),
    # A quoted value may hold spaces; a bare one ends at a space or a separator.
    _rule(
        rf"(?P<keep>\b{_NAMED}[\"']?\s*[:=]\s*)"
        r"(?:\"[^\"]*\"?|'[^']*'?|(?!\[redacted|bearer\b|basic\b)[^\s\"',;&)}\]]+)"
    ),
    _rule(r"(?P<keep>[?&](?:key|sig|code|auth|access)=)[^\s&\"'#]+"),
    _rule(
        r"\bsk[-_][\w*-]{6,}|\b[pr]k_(?:live|test)_\w{6,}|\bgh[pousr]_\w{8,}|\bgithub_pat_\w{8,}|\bxox[a-z]-[\w-]{8,}"
        r"|\bglpat-[\w-]{8,}|\bA(?:KIA|SIA)[A-Z0-9]{12,}|\bAIza[\w-]{16,}|\bhf_\w{8,}|\bgsk_\w{8,}|\bxai-\w{8,}",
        HIDDEN,
    ),
    _rule(r"\beyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?", HIDDEN),
)


def redacted(text: str, *, limit: int = LIMIT, secrets: Iterable[str] = (), addresses: Iterable[str] = ()) -> str:
    """The text without secrets, at most `limit` characters; a cut is shown by an ellipsis.

    Only a bounded stretch is looked at, so that a huge text costs no more than a long one. Its last word is dropped:
    half a secret has no shape to be recognised by. `secrets` are known ones, taken out as they are; so are `addresses` (a host,
    with its port where it has one), each with the URL it is part of.
    """
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    for address in addresses:
        if address in text:
            text = re.sub(rf"(?:https?://)?(?<![\w.-]){re.escape(address)}(?![\w-])[^\s\"'<>)\]]*", HIDDEN, text)
    if len(text) > 4 * limit:
        text = text[: 4 * limit].rpartition(" ")[0] + " …"
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be sent to anybody
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
