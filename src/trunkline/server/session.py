"""The session a client names in a header."""

import re

from starlette.types import Scope

from trunkline.config.profiles import Profile
from trunkline.model.errors import InvalidParameter
from trunkline.server.exchange import header

_SESSION_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:@=+-]{0,255}")


def session_id_of(scope: Scope, profile: Profile) -> str | None:
    """The session id, or None. Raises InvalidParameter for one that is too long or could be taken for a path."""
    given = header(scope, profile.session_header.encode())
    if given is None:
        return None
    if not _SESSION_ID.fullmatch(given) or b".." in given:
        raise InvalidParameter(
            f"Invalid '{profile.session_header}': expected 1 to 256 letters, digits or any of . _ : @ = + -",
            param=profile.session_header,
        )
    return given.decode("ascii")
