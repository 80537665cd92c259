"""What an adapter is given in place of its framework's agent."""


def wrong_agent(given: object, *, adapter: str, takes: str) -> TypeError:
    """The error for it. `adapter`: the module that it was given to."""
    made = type(given)
    article = "an" if made.__name__[0] in "AEIOUaeiou" else "a"
    got = "None" if given is None else f"{article} {made.__name__} of {made.__module__}"
    return TypeError(f"as_agent of {adapter} takes {takes}, got {got}")
