"""The objective of a run: what its section says, with the reference that it asks."""

from __future__ import annotations

from torch import nn

from swift import registry
from swift.config.learned import LearnedSection
from swift.models.attention import Layout
from swift.train.learner import Build
from swift.train.reference import reference_of
from swift.train.session import Session
from swift.tune.tuned import Tuned


def objective(section: LearnedSection) -> Build:
    """What makes the objective that a section is registered with."""

    def build(session: Session, tuned: Tuned, layout: Layout) -> nn.Module:
        reference = reference_of(session, section, tuned, layout)
        made: nn.Module = registry.build(section, tuned.model, reference)
        return made

    return build
