"""Every dialect against its golden cases, each operation in the way a backend, a surface or the store uses it."""

from collections.abc import Mapping

import pytest

from tests.wire import ollama_chat, openai_chat, openai_responses
from tests.wire.golden import Case, Operation, check, find_cases

OPERATIONS: Mapping[str, Mapping[str, Operation]] = {
    "ollama_chat": ollama_chat.OPERATIONS,
    "openai_chat": openai_chat.OPERATIONS,
    "openai_responses": openai_responses.OPERATIONS,
}
CASES = {dialect: list(find_cases(dialect)) for dialect in OPERATIONS}


@pytest.mark.parametrize(
    "case",
    [case for cases in CASES.values() for case in cases],
    ids=lambda case: f"{case.dialect}/{case.operation}/{case.path.stem}",
)
def test_case(case: Case) -> None:
    check(case, OPERATIONS[case.dialect][case.operation](case))


@pytest.mark.parametrize("dialect", OPERATIONS)
def test_every_operation_has_cases_and_every_case_an_operation(dialect: str) -> None:
    assert {case.operation for case in CASES[dialect]} == set(OPERATIONS[dialect])
