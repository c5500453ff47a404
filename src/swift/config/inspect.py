"""How much of the data is shown token by token."""

from __future__ import annotations

from pydantic import Field

from swift.config.section import Section


class InspectSection(Section):
    """How much of the data is shown token by token."""

    samples: int = Field(3, ge=0)
    """Samples shown in the terminal: the first ones."""

    page_samples: int = Field(50, ge=0)
    """Samples on the page: the first ones, the longest and the shortest; with packing the first
    packs."""
