"""The prompts of a run, and the answers to them that were recorded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from swift.config.runs import RlhfConfig
from swift.data.encode import EncodeSettings, read_row
from swift.data.formats.form import formats
from swift.data.formats.meaning import Prompt, kind_of
from swift.data.ledger import Ledger
from swift.data.source import open_sources, read
from swift.errors import DataError
from swift.hub.locate import locate_dataset
from swift.rl.recorded import Told, gather, read_answers
from swift.rl.rollout import Question
from swift.train.plan import max_length_of
from swift.train.session import Session


@dataclass(frozen=True)
class Asked:
    """The prompts of a run."""

    questions: list[Question]
    lengths: list[int]  # of the prompts, in tokens
    ledger: Ledger
    held: list[Question] = field(default_factory=list)  # to evaluate on
    told: Mapping[str, Sequence[Told]] = field(default_factory=dict)  # recorded answers, by place

    @property
    def longest_told(self) -> int:
        """Tokens of the longest recorded answer; 0: there are none."""
        return max((len(one.tokens) for found in self.told.values() for one in found), default=0)

    @property
    def fingerprint(self) -> str:
        """Equal for equal prompts in equal order."""
        digest = hashlib.sha256()
        for question, length in zip(self.questions, self.lengths, strict=True):
            digest.update(f"{question.place}:{length}:{question.asked.messages}".encode())
        return digest.hexdigest()


def read_prompts(session: Session) -> Asked:
    """Read the rows; those whose prompt is longer than max_length are dropped and counted.

    Raises:
        DataError: no row can be used.
    """
    config, section = session.config, session.config.data
    assert isinstance(config, RlhfConfig)
    asked, told = _read(session, section.train, "--dataset")
    held: list[Question] = []
    if section.val:
        apart, _ = _read(session, section.val, "--val_dataset")
        asked.ledger.add(apart.ledger)
        held = apart.questions
    elif section.split:
        asked, held = _apart(asked, section.split, section.seed)
    for text in asked.ledger.losses():
        session.log(text)
    if not config.rollout.recorded:
        return replace(asked, held=held)
    pairs = list(zip(asked.questions, told, strict=True))
    most = max_length_of(config, session.base)
    questions, groups = gather(pairs, config.rollout.num_generations, most, session.log)
    lengths = [len(groups[question.place][0].prompt) for question in questions]
    return Asked(questions, lengths, asked.ledger, told=groups)


def _apart(asked: Asked, split: float, seed: int) -> tuple[Asked, list[Question]]:
    """Prompts to learn from, and the share of them to evaluate on."""
    order = np.random.default_rng(seed).permutation(len(asked.questions))
    count = max(1, round(len(order) * split))
    if count == len(order):
        raise DataError(f"--split_dataset_ratio {split} leaves nothing to learn from")
    stay, out = np.sort(order[count:]), np.sort(order[:count])
    kept = [asked.questions[i] for i in stay], [asked.lengths[i] for i in stay]
    return Asked(*kept, asked.ledger), [asked.questions[i] for i in out]


def _read(session: Session, names: Sequence[str], flag: str) -> tuple[Asked, list[list[Told]]]:
    """The prompts of some data sets, and the answers that were recorded to each."""
    config, section = session.config, session.config.data
    assert isinstance(config, RlhfConfig)
    told: list[list[Told]] = []
    settings = EncodeSettings.of("prompt", section, config.external_plugins)
    most = max_length_of(config, session.base)
    known, asked = formats("prompt"), Asked([], [], Ledger())
    with session.mesh.main_first():
        locate = partial(locate_dataset, hub=config.model.hub, say=session.log)
        sources = open_sources(list(names), locate)
    for block in read(sources, section.seed):
        account = asked.ledger.account(block.source.name)
        for line, raw in zip(block.lines, block.rows, strict=True):
            account.rows += 1
            place = block.source.place(line)
            try:
                meaning = read_row(raw, settings, known, block.source.path.parent)
                if not isinstance(meaning, Prompt):
                    raise DataError(f"a {kind_of(meaning)} is no prompt")
                said = meaning.conversation
                tokens = session.renderer.prompt(said.messages, said.tools, said.template_kwargs)
                question = Question(said, meaning.extra, place)
                found = read_answers(question, session.renderer) if config.rollout.recorded else []
            except (DataError, RecursionError) as error:
                if section.strict:
                    raise DataError(f"{place}: {error}") from None
                account.fail(place, str(error))
                continue
            if len(tokens) > most:
                account.dropped["too long"] += 1
                account.note(f"{place}: too long")
                continue
            account.kept += 1
            asked.questions.append(question)
            asked.lengths.append(len(tokens))
            told.append(found)
    if not asked.questions:
        raise DataError(f"{flag}: no row is a prompt that can be used")
    return asked, told
