"""The names that others write against, pinned: plugin authors, agent authors, and the layers among themselves.

A name that disappears or changes its spelling breaks somebody else's file. This test does not forbid it; it makes it a
decision that a reviewer sees and the changelog tells.
"""

import ast
import importlib

import pytest

from tests.architecture.sources import PACKAGE

PUBLIC: dict[str, str] = {
    "trunkline": "__version__",
    "trunkline.agent": """
        Ask Attachment AudioPart CHOICES Cancellation ChatMessage Choice FilePart FunctionCall ImagePart Output Reasoning Tool
        ToolCall ToolFinished ToolStarted Turn Usage""",
    "trunkline.assembly": "assemble build_endpoints",
    "trunkline.dialects.codec": """BackendCodec Decoder EVENT_STREAM Encoder Framing JSON_LINES KeepingEncoder SurfaceCodec
        encode_all""",
    "trunkline.dialects.ollama_chat": "EXPRESSIBLE NAME OllamaBackend OllamaChatSurface OllamaGenerateSurface asks_to_load",
    "trunkline.dialects.openai_chat": "EXPRESSIBLE ChatBackend ChatSurface NAME",
    "trunkline.embed": "EmbeddedApp create_app",
    "trunkline.model.errors": """
        AgentError AgentIncomplete AuthenticationError BackendError BackendProtocolError BackendRateLimited
        BackendRejected BackendTimeout BackendUnavailable ConfigError Conflict ErrorInfo InternalError InvalidParameter Level
        MethodNotAllowed ModelNotFound NotFound PayloadTooLarge PermissionDenied RateLimited RequestError StoreError
        TrunklineError TurnFailure UnsupportedMediaType UnsupportedParameter shutting_down""",
    "trunkline.model.events": """
        AnnotationAdded ApprovalRequested ApprovalResolved ArgumentsDelta CONTENT ChoiceDone Delta Event Extension
        FinishReason IncompleteReason ItemDone ItemKind ItemStarted OWN PIECES ReasoningDelta RefusalDelta SummaryDelta TERMINALS
        Terminal TextDelta TokensDelta ToolProgress TurnCancelled TurnCompleted TurnFailed TurnIncomplete TurnStarted
        UsageReported""",
    "trunkline.model.grammar": "DELTAS Grammar LIMITS WHOLE",
    "trunkline.model.ids": "Entropy ID_BYTES item_id new_id",
    "trunkline.model.items": """
        AudioPart FilePart FunctionCall FunctionCallOutput ImagePart Item Message OpaqueItem OpaquePart Part Reasoning
        RefusalPart Role Status TextPart ToolKind text_of""",
    "trunkline.model.request": """
        AllowedTools JsonSchema NamedTool OpaqueTool OpaqueToolChoice Request ResponseFormat Tool ToolChoice ToolEvents
        ToolItems""",
    "trunkline.model.tokens": "TokenLogprob TopLogprob",
    "trunkline.model.turn": "ChoiceEnd Fold OpenItem Turn TurnItem fold terminal_for",
    "trunkline.model.usage": "Usage",
    "trunkline.plugins": "BACKENDS BackendPlugin EMBEDDER build_backend build_embedder check_embedder",
    "trunkline.ports.approvals": "Approvals CHOICES DENY Question",
    "trunkline.ports.backend": """
        Backend BackendSetup Capabilities Checkable Compacted Compactor Context EventBatch ModelFile ModelInfo NO_OWNER PartKind
        Probe Relay RelayAnswer RelayBatch SAMPLING_HINTS TokenCounter WholeRelay stop""",
    "trunkline.ports.runtime": "Clock Entropy SystemClock SystemEntropy",
}


def public_names(module: str) -> set[str]:
    """What the module offers: its `__all__`, or what it defines without an underscore."""
    path = PACKAGE.parent / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    names = defined_names(path.read_text(encoding="utf-8"))
    if "__all__" in names:
        return set(importlib.import_module(module).__all__)
    return {name for name in names if not name.startswith("_") or name == "__version__"}


def defined_names(source: str) -> set[str]:
    names: set[str] = set()
    for statement in ast.parse(source).body:
        targets: list[ast.expr] = []
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign():
                targets = statement.targets
            case ast.AnnAssign():
                targets = [statement.target]
            case _:
                pass
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_every_way_to_define_a_name_is_seen() -> None:
    source = "import os\nA = B = 1\nc: int = 2\nclass D: ...\ndef e(): ...\nasync def f(): ...\nif A:\n    g = 1\n"
    assert defined_names(source) == {"A", "B", "c", "D", "e", "f"}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_change_only_on_purpose(module: str) -> None:
    pinned, offered = set(PUBLIC[module].split()), public_names(module)
    assert offered == pinned, (
        f"{module}: new names {sorted(offered - pinned)}, missing names {sorted(pinned - offered)}. "
        "A new name: give it an underscore, or add it to PUBLIC in this file. "
        "A missing one: whoever imports it breaks; keep it, or remove it here and say so in CHANGELOG.md under Changed."
    )


@pytest.mark.parametrize("module", PUBLIC)
def test_what_is_offered_can_be_imported(module: str) -> None:
    imported = importlib.import_module(module)
    assert all(hasattr(imported, name) for name in PUBLIC[module].split())
