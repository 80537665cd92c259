"""The error tree: status, type and retryability belong to the class."""

import pytest

from trunkline.model import errors

SEEN = {
    errors.RequestError("m"): (400, "invalid_request_error", None, False),
    errors.InvalidParameter("m", param="p"): (400, "invalid_request_error", "invalid_value", False),
    errors.UnsupportedParameter("m", param="p"): (400, "invalid_request_error", "unsupported_parameter", False),
    errors.AuthenticationError("m"): (401, "invalid_request_error", "invalid_api_key", False),
    errors.PermissionDenied("m"): (403, "permission_error", "permission_denied", False),
    errors.ModelNotFound("m"): (404, "invalid_request_error", "model_not_found", False),
    errors.MethodNotAllowed("m", allow=("GET",)): (405, "invalid_request_error", "method_not_allowed", False),
    errors.PayloadTooLarge("m"): (413, "invalid_request_error", "body_too_large", False),
    errors.RateLimited("m", retry_after_s=2): (429, "rate_limit_error", "rate_limit_exceeded", True),
    errors.BackendError("m"): (502, "server_error", "backend_error", True),
    errors.BackendRejected("m", status=422, type="t"): (422, "t", "upstream_rejected", False),
    errors.BackendRateLimited("m"): (429, "rate_limit_error", "rate_limit_exceeded", True),
    errors.BackendUnavailable("m"): (503, "server_error", "backend_unavailable", True),
    errors.BackendTimeout("m"): (504, "timeout_error", "backend_timeout", True),
    errors.BackendProtocolError("m"): (502, "server_error", "backend_protocol_error", True),
    errors.AgentError("m"): (500, "server_error", "agent_error", False),
    errors.AgentIncomplete("m"): (502, "server_error", "agent_incomplete", False),
    errors.StoreError("m"): (503, "server_error", "store_error", True),
}


@pytest.mark.parametrize("error", SEEN, ids=lambda error: type(error).__name__)
def test_an_error_says_of_itself_what_goes_on_the_wire(error: errors.TrunklineError) -> None:
    info = error.info()
    assert (info.status, info.type, info.code, info.retryable) == SEEN[error]
    assert info.message == str(error) == "m"
    assert (info.param, info.retry_after_s) == (error.param, error.retry_after_s)


def test_a_code_of_its_own_stands_above_the_class() -> None:
    assert errors.BackendError("m", code="quota").info().code == "quota"
    assert errors.BackendError("m").info().code == "backend_error"


def test_an_error_of_ours_says_nothing_but_the_request_id() -> None:
    info = errors.InternalError(request_id="req_1").info()
    assert info.status == 500
    assert info.code == "internal_error"
    assert "req_1" in info.message


def test_a_configuration_error_names_file_and_key() -> None:
    assert str(errors.ConfigError("expected x", file="a.toml", key="server.port")) == (
        "config a.toml: server.port: expected x"
    )
    assert str(errors.ConfigError("expected x", key="server.port")) == "server.port: expected x"
    assert str(errors.ConfigError("expected x", file="a.toml")) == "config a.toml: expected x"
