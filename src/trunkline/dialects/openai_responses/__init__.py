"""OpenAI Responses."""

from trunkline.dialects.openai_responses.backend import ResponsesBackend
from trunkline.dialects.openai_responses.surface import ResponsesSurface

NAME = "openai_responses"
__all__ = ["NAME", "ResponsesBackend", "ResponsesSurface"]
