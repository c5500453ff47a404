"""Token sequences that must never come, as vLLM can be told of them.

vLLM takes texts, and forbids what its tokenizer makes of each, as it stands and behind a space
(``SamplingParams.update_from_tokenizer`` of vLLM 0.32). So a text is sent only where it forbids
nothing that was not asked for. What is left of single tokens gets a bias that no logit outweighs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swift.errors import ConfigError

Word = tuple[int, ...]
NEVER = -1e30
"""As a bias: in float32 the probability is 0, exactly, and a penalty does not make it infinite."""


def forbidden(
    words: Sequence[Word], tokenizer: Any, *, biased: bool
) -> tuple[list[str], dict[int, float]]:
    """Texts and biases that together forbid just these sequences.

    Args:
        words: the sequences.
        tokenizer: transformers' of the checkpoint.
        biased: whether the engine has biases, as it is set up.

    Raises:
        ConfigError: some cannot be forbidden without others.
    """
    asked = {tuple(word) for word in words}
    written = {word: tokenizer.decode(list(word), skip_special_tokens=False) for word in asked}
    forms = {text: _forms(text, tokenizer) for text in written.values()}
    texts = [text for text, found in forms.items() if found and found <= asked]
    left = asked.difference(*(forms[text] for text in texts))
    singles = {word for word in left if len(word) == 1} if biased else set[Word]()
    if others := sorted(left - singles):
        text = written[others[0]]
        more = sorted(map(list, forms[text] - asked))
        raise ConfigError(
            f"bad_words: vLLM takes texts, and none forbids just the tokens {list(others[0])} "
            f"({text!r})" + (f"; it would also forbid {more}: ask for these too" if more else "")
        )
    return texts, {word[0]: NEVER for word in singles}


def _forms(text: str, tokenizer: Any) -> set[Word]:
    """What vLLM forbids for a text; empty: it refuses the text."""
    plain, spaced = (
        tuple(tokenizer.encode(before + text.lstrip(), add_special_tokens=False))
        for before in ("", " ")
    )
    if not plain:
        return set()
    is_other = spaced and spaced[0] != plain[0] and len(spaced) == len(plain)
    return {plain, spaced} if is_other else {plain}
