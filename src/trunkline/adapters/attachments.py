"""What no adapter can hand on. Each framework has its own way to write the rest."""

from trunkline.agent import Attachment
from trunkline.model.errors import AgentError


def unreadable(part: Attachment) -> AgentError:
    """An attachment of which only a reference came along, of a kind that this framework cannot follow."""
    return AgentError(
        f"this agent cannot read a {part.__struct_config__.tag} that is not sent along; send its content as a data: URL",
        code="unsupported_content_type",
    )
