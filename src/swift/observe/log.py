"""What a person reads while a command runs."""

from __future__ import annotations

import logging
import sys
import warnings


class Log:
    """Lines for the person at the terminal; silent on all processes but the first."""

    def __init__(self, speaking: bool = True) -> None:
        self._speaking = speaking

    def __call__(self, text: str) -> None:
        """Print a line to stderr: stdout belongs to results."""
        if self._speaking:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self(f"warning: {text}")


def quiet_libraries() -> None:
    """Keep the libraries beneath from talking over us; their errors still come through."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="(torch|peft|transformers)")
    logging.getLogger("torch").setLevel(logging.ERROR)
