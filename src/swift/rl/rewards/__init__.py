"""What judges answers, one file each.

A reward is a function ``reward(completions, **columns) -> list[float | None]``: one number for each
text, or None where it cannot judge. ``columns`` are lists as long: those of the rows, and
``completion_ids`` (tokens), ``finish_reasons``, ``questions`` (the last message of the user) and
``messages``. A function with a parameter ``settings`` is given the section of rewards. It may be a
coroutine.
"""
