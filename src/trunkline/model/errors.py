"""The one error tree, drawn:

    TrunklineError(message, code, param)          status  type
    ├── RequestError                              400     invalid_request_error   the caller can fix it
    │   ├── InvalidParameter                      400
    │   ├── UnsupportedParameter                  400     code unsupported_parameter: nothing here can honour it
    │   ├── AuthenticationError                   401
    │   ├── PermissionDenied                      403
    │   ├── NotFound                              404
    │   │   └── ModelNotFound                     404     code model_not_found
    │   ├── MethodNotAllowed                      405
    │   ├── Conflict                              409     the request is fine, what it meets is not in that state
    │   ├── PayloadTooLarge                       413
    │   ├── UnsupportedMediaType                  415
    │   └── RateLimited                           429     rate_limit_error, with Retry-After
    ├── BackendError                              502     the answerer failed
    │   ├── BackendRejected                       4xx     the upstream refused this request; its own status is kept
    │   ├── BackendRateLimited                    429     the upstream refuses for now
    │   ├── BackendUnavailable                    503     nobody answered: refused, reset, shutting down
    │   ├── BackendTimeout                        504
    │   ├── BackendProtocolError                  502     the answer broke the rules of its dialect or the event grammar
    │   ├── AgentError                            500     a Python agent raised; its text, redacted and cut
    │   └── AgentIncomplete                       502     an agent ended without any usable text
    ├── TurnFailure                               …       a TurnFailed event raised again: status and type are the event's
    ├── StoreError                                503     nothing was written: the disk is full, the file is held
    ├── InternalError                             500     a bug of ours: a safe sentence and the request id
    └── ConfigError(file, key)                    never on the wire

Status, wire type, retryability and log level belong to the class, so that nothing is ever decided by searching in a
message. `ErrorInfo` is the error as a value: events carry it, surfaces render it.
"""

from collections.abc import Mapping
from typing import Literal, Self

import msgspec

Level = Literal["info", "warning", "error"]


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as a value. `status` is an HTTP status, `retry_after_s` seconds. `state`: how an agent says its run went."""

    message: str
    type: str
    code: str | None = None
    param: str | None = None
    status: int = 500
    retryable: bool = False
    retry_after_s: float | None = None
    state: Mapping[str, bool] = {}


class TrunklineError(Exception):
    """Root of everything trunkline raises on purpose."""

    status: int = 500
    type: str = "server_error"
    default_code: str | None = None
    retryable: bool = False
    level: Level = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s = retry_after_s

    def again(self) -> Self:
        """The same without a past, for what is raised to several: a traceback holds all the frames it went through."""
        same = type(self).__new__(type(self), *self.args)
        same.__dict__.update(self.__dict__)
        return same

    def info(self) -> ErrorInfo:
        return ErrorInfo(
            message=self.message,
            type=self.type,
            code=self.code,
            param=self.param,
            status=self.status,
            retryable=self.retryable,
            retry_after_s=self.retry_after_s,
        )


class TurnFailure(TrunklineError):
    """A failure that arrived as an event, raised again because nothing of the answer has been sent yet."""

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message, code=info.code, param=info.param, retry_after_s=info.retry_after_s)
        self.status = info.status
        self.type = info.type
        self.retryable = info.retryable
        self.state = info.state
        self.level = "warning"

    def info(self) -> ErrorInfo:
        return msgspec.structs.replace(super().info(), state=self.state)


class RequestError(TrunklineError):
    """The caller's request is wrong and the caller can fix it."""

    status = 400
    type = "invalid_request_error"
    level = "info"


class InvalidParameter(RequestError):
    """A parameter has a wrong type, shape or value; `param` is its path, as in `messages[1].content[0].text`."""

    default_code = "invalid_value"


class UnsupportedParameter(RequestError):
    """A parameter is fine in itself, but the backend that would answer cannot honour it."""

    default_code = "unsupported_parameter"


class AuthenticationError(RequestError):
    status = 401
    default_code = "invalid_api_key"


class PermissionDenied(RequestError):
    status = 403
    type = "permission_error"
    default_code = "permission_denied"


class NotFound(RequestError):
    status = 404
    default_code = "not_found"


class ModelNotFound(NotFound):
    default_code = "model_not_found"


class MethodNotAllowed(RequestError):
    status = 405
    default_code = "method_not_allowed"

    def __init__(self, message: str, *, allow: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allow = allow


class Conflict(RequestError):
    """The request is fine in itself, but what it meets is in another state; `code` says which."""

    status = 409
    default_code = "conflict"


class PayloadTooLarge(RequestError):
    status = 413
    default_code = "body_too_large"


class UnsupportedMediaType(RequestError):
    status = 415
    default_code = "unsupported_media_type"


class RateLimited(RequestError):
    """Every slot and every place in the queue is taken."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"
    retryable = True


class BackendError(TrunklineError):
    """The answerer failed; the request itself was acceptable."""

    status = 502
    type = "server_error"
    default_code = "backend_error"
    retryable = True
    level: Level = "warning"


class BackendRejected(BackendError):
    """An upstream answered 4xx: the request is wrong for it. Never retried, never held against the upstream."""

    type = "invalid_request_error"
    default_code = "upstream_rejected"
    retryable = False
    level = "info"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str | None = None,  # noqa: A002 - the wire's word
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message, code=code, param=param)
        self.status = status
        if type is not None:
            self.type = type


class BackendRateLimited(BackendError):
    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class BackendUnavailable(BackendError):
    status = 503
    default_code = "backend_unavailable"


def shutting_down() -> BackendUnavailable:
    """This server leaves: what is new is refused, what its time to finish did not suffice for is cut."""
    return BackendUnavailable("the server is shutting down", code="server_shutting_down")


class BackendTimeout(BackendError):
    status = 504
    type = "timeout_error"
    default_code = "backend_timeout"


class BackendProtocolError(BackendError):
    default_code = "backend_protocol_error"
    level = "error"


class AgentError(BackendError):
    """A Python agent raised. The message is the agent's text, already redacted and bounded."""

    status = 500
    default_code = "agent_error"
    retryable = False


class AgentIncomplete(BackendError):
    """An agent ended without text; `state` is what it says of that: completed, partial, failed."""

    status = 502
    default_code = "agent_incomplete"
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        state: Mapping[str, bool] = {},
    ) -> None:
        super().__init__(message, code=code, param=param, retry_after_s=retry_after_s)
        self.state = state

    def info(self) -> ErrorInfo:
        return msgspec.structs.replace(super().info(), state=self.state)


class StoreError(TrunklineError):
    """The store did not take or give something, as its disk is full or its file is held: that passes."""

    status = 503
    retryable = True
    default_code = "store_error"


class InternalError(TrunklineError):
    """A bug of ours; the message is always the safe sentence, never the cause."""

    default_code = "internal_error"

    def __init__(self, *, request_id: str) -> None:
        super().__init__(f"trunkline failed to handle this request; quote request id {request_id} to its operator")


class ConfigError(TrunklineError):
    """The configuration is wrong: which file, which key, what was seen and what would be right."""

    default_code = "config_error"

    def __init__(self, message: str, *, file: str | None = None, key: str | None = None) -> None:
        where = f"config {file}: " if file else ""
        super().__init__(f"{where}{key}: {message}" if key else f"{where}{message}")
        self.file = file
        self.key = key

    def with_message(self, message: str) -> "ConfigError":
        """The same about more than one key. Its message is taken as it is."""
        error = ConfigError(message)
        error.file, error.key = self.file, self.key
        return error
