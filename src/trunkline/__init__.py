"""trunkline: one OpenAI-compatible server in front of whatever answers.

The package is layered (see ARCHITECTURE.md): values in `model`, wire framing in `wire`, protocols in `ports`, wire formats
in `dialects`, answerers in `backends`, the path of one call in `engine`, HTTP in `server`. This module exports only the version.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
