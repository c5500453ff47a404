"""What a run of ``swift sft`` makes of its model: one that writes, or one that gives numbers.

Defaults are those of ms-swift 4; its variables INFONCE_* are settings here.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from swift.config.learned import LearnedSection
from swift.config.section import Word, as_list
from swift.registry import variant

Problem = Literal["regression", "single_label_classification", "multi_label_classification"]

Sizes = Annotated[list[Annotated[int, Field(ge=1)]], BeforeValidator(as_list)]
"""A list of sizes; a single one is a list of one."""


class TaskSection(LearnedSection):
    """What the model learns to give for a text."""


@variant(TaskSection, "causal_lm", code="swift.train.objective:writing")
class WritingSection(TaskSection):
    """Text: the turns of the assistant."""

    kind: Literal["causal_lm"] = "causal_lm"


@variant(TaskSection, "seq_cls", code="swift.train.classification:classifier")
class ClassSection(TaskSection):
    """Its class, several of them, or a number."""

    kind: Literal["seq_cls"] = "seq_cls"
    task: ClassVar[str] = "classification"

    num_labels: int = Field(ge=1)
    """Numbers that the model gives for a text: one for each class."""

    problem_type: Problem | None = None
    """What a label is: numbers to predict, one class, or several. Default: a number with
    num_labels 1, else one class."""

    @model_validator(mode="after")
    def _fits(self) -> ClassSection:
        if self.problem_type == "single_label_classification" and self.num_labels < 2:
            why = "one class is no choice; with several: --num_labels 2"
            raise PydanticCustomError("where", "{why}", {"path": "task.num_labels", "why": why})
        return self

    @property
    def scores(self) -> int | None:
        """One number for each class."""
        return self.num_labels

    @property
    def problem(self) -> Problem:
        """What a label is."""
        if self.problem_type:
            return self.problem_type
        return "regression" if self.num_labels == 1 else "single_label_classification"


@variant(TaskSection, "embedding", code="swift.train.embedding:embedding")
class EmbeddingSection(TaskSection):
    """A vector: near those of texts that mean the like."""

    kind: Literal["embedding"] = "embedding"
    task: ClassVar[str] = "embedding"

    loss_type: Literal["infonce", "cosine_similarity", "contrastive", "online_contrastive"] = (
        "infonce"
    )
    """infonce (positives against negatives), cosine_similarity (the score of a pair),
    contrastive, online_contrastive (pairs that are alike, and pairs that are not)."""

    temperature: float = Field(0.1, gt=0)
    """Of infonce."""

    in_batch: bool = True
    """infonce: the texts of other rows of a micro-batch are negatives too."""

    mask_fake_negatives: bool = False
    """infonce: leave out negatives that lie nearer to the anchor than its positive by more than
    fake_negative_margin; they may well be positives that nobody marked."""

    fake_negative_margin: float = Field(0.1, ge=0)
    """Of mask_fake_negatives, as a difference of cosines."""

    margin: float = Field(0.5, gt=0)
    """The distance (1 - cosine) from which contrastive losses leave unlike texts alone."""

    mrl_dims: Sizes = []
    """Learn the first so many numbers of a vector as vectors too, each normalized anew, and the
    whole one (Matryoshka, arXiv:2205.13147)."""


@variant(TaskSection, "reranker", code="swift.train.ranking:reranker")
class RerankerSection(TaskSection):
    """A score of a document for a query."""

    kind: Literal["reranker"] = "reranker"
    task: ClassVar[str] = "ranking"

    loss_type: Literal["pointwise_reranker", "listwise_reranker"] = "pointwise_reranker"
    """Each document by itself, or those of a query against each other."""

    @property
    def scores(self) -> int | None:
        """A score."""
        return 1


@variant(TaskSection, "generative_reranker", code="swift.train.ranking:generative")
class GenerativeRerankerSection(RerankerSection):
    """The same from a model that writes: it is asked whether a document fits, and the score is how
    much likelier it is to answer yes than no, as a difference of logits.
    """

    kind: Literal["generative_reranker"] = "generative_reranker"  # type: ignore[assignment]
    task: ClassVar[str] = "relevance"

    positive_token: Word = "yes"
    """The token of the one answer."""

    negative_token: Word = "no"
    """The token of the other one."""

    @property
    def scores(self) -> int | None:
        """None: the model still writes."""
        return None
