"""The two names of one thing: `run_X` is the run, `resp_X` its response. Either is taken wherever the other is."""

RUN = "run_"
RESPONSE = "resp_"


def response_id_of(given: str) -> str:
    """The response's id for either; any other id as it is."""
    return RESPONSE + given.removeprefix(RUN) if given.startswith(RUN) else given


def run_id_of(response_id: str) -> str:
    """The run's id; of an answer that is none, such as a chat completion, its own."""
    return RUN + response_id.removeprefix(RESPONSE) if response_id.startswith(RESPONSE) else response_id
