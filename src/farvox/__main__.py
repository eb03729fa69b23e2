"""``python -m farvox`` is the ``farvox`` command.

A rank of a run ends before Python takes itself apart: a thread of its process group may still have a tensor
to give back, which needs Python, and aborts where there is none.
"""

import atexit
import os
import sys
from contextlib import suppress

status = 1


def leave() -> None:
    """End this process with what was printed on its way, after all else that is done at the exit."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if "WORLD_SIZE" in os.environ:
    atexit.register(leave)  # the first that is registered is the last that is called
from farvox.cli.main import main  # noqa: E402

try:
    status = main()
except SystemExit as end:  # of tyro, and of a rank that lost the others
    status = end.code if isinstance(end.code, int) else int(end.code is not None)
    raise
raise SystemExit(status)
