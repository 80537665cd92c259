"""The program: `trunkline`, or `python -m trunkline`.

Importing it takes half a second. Whoever thinks better of it meanwhile wants no traceback of an import, so the signals are taken
before anything else, and held until the server has handlers of its own. By then nothing has begun that would have to be undone.
"""

import os
import signal
import sys
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:
    """With the code that a shell gives for a process which the signal has ended. As the first process of a container, which has no
    default actions, it would not end otherwise."""
    del frame
    os._exit(128 + number)


for _number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(_number, _end)

from trunkline.cli.main import main  # noqa: E402 - its imports are what takes so long

if __name__ == "__main__":
    sys.exit(main())
