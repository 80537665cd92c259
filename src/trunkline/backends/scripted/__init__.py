"""The `scripted` backend: answers that are the same every time, from a script or by repeating what it was told.

It ships, for demonstrations and for everybody's tests: every event of the union can be scripted, at any pace, and so
can every way to fail, the broken ones included. docs/scripted.md shows the script's form.
"""

from trunkline.backends.scripted.backend import ScriptedBackend, build
from trunkline.backends.scripted.script import (
    STEPS,
    ApprovalStep,
    CallStep,
    CloseStep,
    ErrorStep,
    EventStep,
    ExtensionStep,
    FinishStep,
    HangStep,
    ItemStep,
    PauseStep,
    ReasoningStep,
    RefusalStep,
    Rule,
    RunStep,
    Script,
    StartStep,
    Step,
    SummaryStep,
    TextStep,
    UsageStep,
    load_script,
    parse_script,
)

__all__ = [
    "ScriptedBackend",
    "build",
    "Script",
    "Rule",
    "Step",
    "STEPS",
    "TextStep",
    "ReasoningStep",
    "RefusalStep",
    "CallStep",
    "RunStep",
    "ItemStep",
    "ApprovalStep",
    "ExtensionStep",
    "UsageStep",
    "FinishStep",
    "ErrorStep",
    "HangStep",
    "PauseStep",
    "StartStep",
    "SummaryStep",
    "CloseStep",
    "EventStep",
    "load_script",
    "parse_script",
]
