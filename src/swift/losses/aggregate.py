"""What counts alike in a step: (weight of one token, weight of its sample in the division).

``tokens`` is how many tokens of the sample the model wrote, ``most`` how many it might have.
"""

from __future__ import annotations


def sample(tokens: int, most: int) -> tuple[float, float]:
    """The mean over samples of the mean over tokens (GRPO, arXiv:2402.03300, eq. 3)."""
    return 1 / max(tokens, 1), 1.0


def token(tokens: int, most: int) -> tuple[float, float]:
    """The mean over all tokens of a step (DAPO, arXiv:2503.14476, eq. 8)."""
    return 1.0, float(tokens)


def constant(tokens: int, most: int) -> tuple[float, float]:
    """The sum over tokens by a constant length, so that lengths bias nothing.

    Dr. GRPO (arXiv:2503.20783, section 3.2).
    """
    return 1 / most, 1.0
