"""An agent that thinks, runs a tool of its own and reports what it used.

Try it: `trunkline serve examples/tools.py:agent`.
"""

import ast
import operator
from collections.abc import AsyncIterator

from trunkline.agent import Output, Reasoning, ToolFinished, ToolStarted, Turn, Usage

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def calculate(expression: str) -> float:
    """The value of a sum such as `2 * (3 + 4)`."""

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
            result: float = OPERATIONS[type(node.op)](value(node.left), value(node.right))
            return result
        raise ValueError(f"cannot calculate {expression!r}")

    return value(ast.parse(expression, mode="eval").body)


async def agent(turn: Turn) -> AsyncIterator[Output]:
    yield Reasoning("The message is a sum, so the calculator can answer it.")
    yield ToolStarted("call_1", "calculator", {"expression": turn.input}, label=turn.input)
    result = calculate(turn.input)
    yield ToolFinished("call_1", output={"result": result})
    yield f"{turn.input} = {result:g}"
    yield Usage(input_tokens=len(turn.input.split()), output_tokens=3)
