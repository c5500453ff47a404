"""What a process that helps with data does first."""

from __future__ import annotations

import os
import threading
from multiprocessing import parent_process


def end_with_parent() -> None:
    """End when the process that started this one has ended.

    A parent that was killed cannot tell its helpers, and helpers of one parent keep each other's
    pipes open, so that none of them would notice.
    """
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
