"""The rules that no linter checks for us, each as a function from one module to the places that break it.

What they have in common: every one forbids a thing that starts small and is found years later in a thousand places.
An exception is allowed where a reason is written down (exceptions.py), never by a comment beside the code.
"""

import ast
import re
from collections.abc import Callable, Iterator

from tests.architecture.sources import Definition, Finding, Source

MAX_FILE_LINES = 600
MAX_CLASS_LINES = 350
MAX_FUNCTION_LINES = 60

BROAD = frozenset({"Exception", "BaseException"})
PURE_LAYERS = ("model/", "wire/", "dialects/")
PURE_IMPORTS = frozenset(
    {"abc", "base64", "binascii", "collections", "enum", "functools", "itertools", "json", "math", "msgspec", "re"}
    | {"string", "trunkline", "types", "typing"}
)
"""An allow-list: whatever a new module of the standard library does, it is outside until it is let in here."""
CHANCE_AND_TIME = frozenset({"datetime", "random", "secrets", "time", "uuid", "zoneinfo"})
VAGUE_NAMES = re.compile(
    r"(^|_)(manager|helpers?|utils?|misc|process_data)($|_)|^(do|my)_|[a-z](Manager|Helper|Utils?)$"
)

Rule = Callable[[Source], Iterator[Finding]]


def module_docstrings(source: Source) -> Iterator[Finding]:
    """Every module says its idea at its top."""
    if not ast.get_docstring(source.tree):
        yield Finding(source.path, 1, "has no module docstring: say its one idea and the decision behind it")


def imports_at_the_top(source: Source) -> Iterator[Finding]:
    """Imports stand at the top of the module, unconditionally: a hidden one hides a cycle or a missing dependency."""
    allowed = set(source.tree.body)
    for statement in source.tree.body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            allowed.update(statement.body)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and node not in allowed:
            yield source.finding(node, "imports below the top of the module; optional parts are loaded by plugins.py")
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__"):
            yield source.finding(node, "imports by name, which no import rule can see; only plugins.py does")


def narrow_excepts(source: Source) -> Iterator[Finding]:
    """Only supervisors catch everything: a task's, a surface's boundary, plugin load, shutdown."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and (node.type is None or _names(node.type) & BROAD):
            caught = ast.unparse(node.type) if node.type else "everything"
            yield source.finding(node, f"catches {caught}; name what can happen here")
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("suppress")
            and any(_names(argument) & BROAD for argument in node.args)
        ):
            yield source.finding(node, "suppresses every exception; name what can happen here")


def no_silent_handlers(source: Source) -> Iterator[Finding]:
    """A handler that does nothing is either broad, and a mistake, or narrow, and says why in a comment."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ExceptHandler) or not all(_does_nothing(statement) for statement in node.body):
            continue
        end = node.body[-1].end_lineno or node.lineno
        commented = any("#" in line for line in source.lines[node.lineno - 1 : end])
        if node.type is None or _names(node.type) & BROAD:
            yield source.finding(node, "swallows every exception in silence")
        elif not commented:
            yield source.finding(node, "does nothing about an exception and no comment says why that is right")


def no_globals(source: Source) -> Iterator[Finding]:
    """State lives in objects that somebody made and somebody owns."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Global):
            yield source.finding(node, f"rebinds module names: {', '.join(node.names)}")


def environment_reads(source: Source) -> Iterator[Finding]:
    """The environment is read in one table; everything else is given a mapping or a setting."""
    environment = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv", "expandvars"}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr in environment and _names(node.value) & {"os", "path"}:
            yield source.finding(node, f"uses {ast.unparse(node)}; settings come from the configuration")
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "os.path"):
            for name in node.names:
                if name.name in environment:
                    yield source.finding(node, f"imports os.{name.name}; settings come from the configuration")


def tasks_have_owners(source: Source) -> Iterator[Finding]:
    """A task that nobody keeps can vanish in mid-air, and its failure with it. A TaskGroup keeps its own."""
    groups = {
        item.optional_vars.id
        for node in ast.walk(source.tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if isinstance(item.optional_vars, ast.Name) and "TaskGroup" in ast.unparse(item.context_expr)
    }
    for function in ast.walk(source.tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        read = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        for node in _own_statements(function):
            value = node.value if isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign) else None
            if not isinstance(value, ast.Call):
                continue
            called = ast.unparse(value.func)
            if called.rpartition(".")[2] not in ("create_task", "ensure_future", "run_coroutine_threadsafe"):
                continue
            if called.partition(".")[0] in groups:
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            local = [target.id for target in targets if isinstance(target, ast.Name)]
            if isinstance(node, ast.Expr) or (local and not set(local) & read):
                yield source.finding(node, f"starts a task with {called} and keeps no hold of it")


def no_any_in_signatures(source: Source) -> Iterator[Finding]:
    """A signature says what it takes and gives."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        annotations = [argument.annotation for argument in _arguments(node)] + [node.returns]
        if any("Any" in _names(annotation) for annotation in annotations if annotation is not None):
            yield source.finding(node, "has Any in its signature")


def booleans_by_keyword(source: Source) -> Iterator[Finding]:
    """`f(True)` says nothing at the place where it is read."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_") and node.name != "__init__":
            continue
        positional = [*node.args.posonlyargs, *node.args.args]
        defaults = [None] * (len(positional) - len(node.args.defaults)) + [*node.args.defaults]
        for argument, default in zip(positional, defaults, strict=True):
            annotated = argument.annotation is not None and "bool" in _alternatives(argument.annotation)
            if annotated or (isinstance(default, ast.Constant) and isinstance(default.value, bool)):
                yield source.finding(node, f"takes the boolean {argument.arg!r} by position; put it behind *")


def sizes(source: Source) -> Iterator[Finding]:
    """A long file, class or function is a design question. Never split a thing in two to please the number."""
    if len(source.lines) > MAX_FILE_LINES:
        yield Finding(source.path, 1, f"has {len(source.lines)} lines; more than {MAX_FILE_LINES} is a design question")
    for node in ast.walk(source.tree):
        if isinstance(node, Definition):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            limit = MAX_CLASS_LINES if isinstance(node, ast.ClassDef) else MAX_FUNCTION_LINES
            if lines > limit:
                yield source.finding(node, f"has {lines} lines; more than {limit} is a design question")


def pure_layers(source: Source) -> Iterator[Finding]:
    """Values, wire formats and dialects compute. Import-linter forbids what it lists; this allows what is listed."""
    if not source.path.startswith(PURE_LAYERS):
        return
    for node, module in _imports(source):
        if module not in PURE_IMPORTS:
            yield source.finding(node, f"imports {module}, which is not among the modules that only compute")


def chance_and_time(source: Source) -> Iterator[Finding]:
    """Ids and times come from the Clock and Entropy ports, so that everything above them can be pinned by a test."""
    for node, module in _imports(source):
        if module in CHANCE_AND_TIME:
            yield source.finding(node, f"imports {module}; time and randomness come from ports/runtime.py")


def messages_decide_nothing(source: Source) -> Iterator[Finding]:
    """What an error is, its type and code say. Its message is for people, and changes."""
    for handler in ast.walk(source.tree):
        if not isinstance(handler, ast.ExceptHandler) or handler.name is None:
            continue
        text = {f"str({handler.name})", f"{handler.name}.message", f"{handler.name}.args[0]"}
        for node in ast.walk(handler):
            searched: list[ast.expr] = []
            if isinstance(node, ast.Compare):
                searched = [node.left, *node.comparators]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr in ("startswith", "endswith", "find", "index", "count"):
                    searched = [node.func.value]
                elif node.func.attr in ("search", "match", "fullmatch", "findall"):
                    searched = list(node.args)
            if isinstance(node, ast.expr) and any(
                ast.unparse(expression).removesuffix(".lower()") in text for expression in searched
            ):
                yield source.finding(node, "decides by an error's message; its type and code are for that")


def telling_names(source: Source) -> Iterator[Finding]:
    """A name from the field says what a thing is; these say that nobody knew."""
    stem = source.path.rpartition("/")[2].removesuffix(".py")
    if VAGUE_NAMES.search(stem):
        yield Finding(source.path, 1, f"is called {stem!r}, which says nothing")
    for node in ast.walk(source.tree):
        if isinstance(node, Definition) and VAGUE_NAMES.search(node.name):
            yield source.finding(node, f"is called {node.name!r}, which says nothing")


RULES: tuple[Rule, ...] = (
    module_docstrings,
    imports_at_the_top,
    narrow_excepts,
    no_silent_handlers,
    no_globals,
    environment_reads,
    tasks_have_owners,
    no_any_in_signatures,
    booleans_by_keyword,
    sizes,
    pure_layers,
    chance_and_time,
    messages_decide_nothing,
    telling_names,
)


def _names(node: ast.expr) -> set[str]:
    """Every plain name and last part of a dotted one in an expression, within quoted annotations too."""
    names: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            names.add(part.id)
        elif isinstance(part, ast.Attribute):
            names.add(part.attr)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            names.update(re.findall(r"\w+", part.value))
    return names


def _alternatives(annotation: ast.expr) -> set[str]:
    """The members of a union as they are written."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.BinOp):
        return _alternatives(annotation.left) | _alternatives(annotation.right)
    return {ast.unparse(annotation)}


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass | ast.Continue)


def _own_statements(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.stmt]:
    """Statements of a function, without those of functions inside it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Definition):
            continue
        if isinstance(node, ast.stmt):
            yield node
        waiting.extend(child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr))


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    named = function.args
    starred = [argument for argument in (named.vararg, named.kwarg) if argument is not None]
    return [*named.posonlyargs, *named.args, *named.kwonlyargs, *starred]


def _imports(source: Source) -> Iterator[tuple[ast.stmt, str]]:
    """Each import with the top-level module it names."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node, name.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node, node.module.partition(".")[0]
