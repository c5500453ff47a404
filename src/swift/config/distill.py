"""Distillation: a student learns what a teacher believes of every token."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from swift.config.alignment import RlhfSection
from swift.config.section import Strings, Word
from swift.registry import variant


@variant(RlhfSection, "gkd", code="swift.train.distill:gkd")
class GkdSection(RlhfSection):
    """Generalised knowledge distillation (arXiv:2306.13649), on the answers of the rows, of the
    student or of the teacher.
    """

    kind: Literal["gkd"] = "gkd"
    task: ClassVar[str] = "chat"

    teacher_model: Word | None = None
    """The teacher; it reads the tokens of the student."""

    teacher_adapters: Strings = []
    """Adapters of the teacher."""

    teacher_model_server: Word | None = None
    """Address of a server that is the teacher: its /v1/completions take token ids and tell
    prompt_logprobs, as those of vLLM."""

    teacher_model_server_key: str | None = Field(None, exclude=True)
    """Key that this server asks for, sent as a bearer token; it is kept in no file."""

    offload_teacher_model: bool = False
    """Keep the teacher in the memory of the CPU between its answers."""

    beta: float = Field(0.5, ge=0, le=1)
    """0: KL(teacher || student), which covers all that the teacher may say; 1: KL(student ||
    teacher), which keeps to what it is likely to say; between: the Jensen-Shannon divergence."""

    lmbda: float = Field(0.5, ge=0, le=1)
    """Share of the steps that learn from answers which the student writes (on-policy)."""

    seq_kd: bool = False
    """In the other steps learn from answers which the teacher writes, not from those of the rows
    (arXiv:1606.07947)."""

    sft_alpha: float = Field(0.0, ge=0)
    """Weight of fine-tuning on answers that the student did not write."""

    logits_topk: int | None = Field(None, ge=1)
    """Compare the tokens alone that the teacher finds most likely, this many, as if there were no
    others. Default: all; a server needs a number."""

    @model_validator(mode="after")
    def _check(self) -> GkdSection:
        path, why = "", ""
        if self.teacher_model is None and self.teacher_model_server is None:
            path, why = "teacher_model", "is needed, or --teacher_model_server http://host:8000"
        elif self.teacher_model_server is None:
            if self.teacher_model_server_key is not None:
                path, why = "teacher_model_server_key", "belongs to --teacher_model_server"
        elif self.teacher_model is not None or self.teacher_adapters:
            path, why = "teacher_model_server", "is the teacher: leave out --teacher_model"
        elif not self.teacher_model_server.startswith(("http://", "https://")):
            path, why = "teacher_model_server", "one address is needed: http://host:8000"
        elif self.logits_topk is None:
            path = "logits_topk"
            why = "is needed with --teacher_model_server: a server tells the most likely tokens"
        elif self.seq_kd:
            path = "seq_kd"
            why = "a server's answers are rows: swift sample --sampler_type distill writes them"
        if path:
            raise PydanticCustomError("where", "{why}", {"path": f"rlhf.{path}", "why": why})
        return self

    @property
    def writes(self) -> bool:
        """Whether answers are written while it learns."""
        return self.lmbda > 0 or self.seq_kd
