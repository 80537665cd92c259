"""Where the log goes: stderr, one line a record, at the level that the configuration says."""

import logging
from typing import TextIO

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_logs(level: str, *, stream: TextIO) -> None:
    """trunkline's own records at `level`; libraries' only from warning on, unless at debug."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.getLogger("trunkline").setLevel(level.upper())
    for library in ("asyncio", "uvicorn"):
        logging.getLogger(library).setLevel(logging.WARNING)
