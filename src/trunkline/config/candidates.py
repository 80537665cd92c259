"""What of a Python file could be an agent, found by reading it: nothing of it runs.

A list for people who named a file without saying what of it. A function that cannot be called with a turn alone is left out,
and so is a class whose objects nobody could make or call that way; what a decorator makes of either is not known.
"""

import ast
from pathlib import Path

AGENT_METHODS = frozenset({"run_conversation", "process_direct"})

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def agents_in(path: Path) -> list[str]:
    """Public functions, classes that make agents, and names that hold the result of a call, as an agent object would; the
    likeliest first. Raises OSError and SyntaxError."""
    names: list[str] = []
    for node in ast.parse(path.read_bytes(), filename=str(path)).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if _takes(node, 1):
                names.append(name)
            case ast.ClassDef(name=name) if _makes_agents(node):
                names.append(name)
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call()):
                names.append(name)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call()):
                names.append(name)
            case _:
                pass
    public = [name for name in dict.fromkeys(names) if not name.startswith("_")]
    return sorted(public, key=lambda name: "agent" not in name.lower())


def _makes_agents(node: ast.ClassDef) -> bool:
    methods = {member.name: member for member in node.body if isinstance(member, _Function)}
    if methods.keys() & AGENT_METHODS:  # what these are made with is theirs to say
        return True
    called, made = methods.get("__call__"), methods.get("__init__")
    return called is not None and _takes(called, 2) and (made is None or _takes(made, 1))


def _takes(function: _Function, count: int) -> bool:
    """Whether it can be called with so many arguments, as far as its text tells."""
    given = function.args
    positional = len(given.posonlyargs) + len(given.args)
    return bool(function.decorator_list) or (
        positional - len(given.defaults) <= count
        and (positional >= count or given.vararg is not None)
        and None not in given.kw_defaults
    )
