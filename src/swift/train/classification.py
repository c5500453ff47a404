"""The objective of texts with labels: outputs behind their last token. Axes: B texts, C outputs."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from swift.config.task import ClassSection
from swift.data.batch import Batch
from swift.errors import DataError
from swift.losses import classification as losses
from swift.losses.loss import Loss
from swift.train.objective import media_zero
from swift.train.reference import Reference
from swift.train.reward import read_outputs, scored


class ClassObjective(nn.Module):
    """The loss of labels, over the outputs of a sequence classification model."""

    unit = "texts"

    def __init__(self, section: ClassSection, model: PreTrainedModel, reference: Reference) -> None:
        super().__init__()
        model.config.problem_type = section.problem  # kept with the model, for transformers
        self.model = model
        self.collate = scored(model, share=False)
        self._section, self._zero = section, media_zero(model)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``total``: the summed loss; the other entries: metrics.

        Raises:
            DataError: a row's labels are not those of the task.
        """
        check(batch, self._section)
        outputs_BC = read_outputs(self.model, batch)
        return loss_of(outputs_BC, batch, self._section).out(batch.weight, also=self._zero())


def loss_of(outputs_BC: torch.Tensor, batch: Batch, section: ClassSection) -> Loss:
    """The loss of outputs, by the kind of labels."""
    if section.problem == "regression":
        return losses.regression(outputs_BC, batch.labels.view_as(outputs_BC))
    classes = batch.labels.long()
    if section.problem == "single_label_classification":
        return losses.single_label(outputs_BC, classes)
    true_BC = torch.zeros_like(outputs_BC)
    true_BC[batch.sample_Y, classes] = 1.0
    return losses.multi_label(outputs_BC, true_BC)


def check(batch: Batch, section: ClassSection) -> None:
    """Whether labels are those of the task.

    Raises:
        DataError: they are not; the message names the row.
    """
    rows = [[] for _ in batch.places]  # type: list[list[float]]
    for sample, label in zip(batch.sample_Y.tolist(), batch.labels.tolist(), strict=True):
        rows[sample].append(label)
    count, several = section.num_labels, section.problem == "multi_label_classification"
    needed = count if section.problem == "regression" else 1
    for place, labels in zip(batch.places, rows, strict=True):
        if not several and len(labels) != needed:
            raise DataError(
                f"{place}: {len(labels)} labels, and {section.problem} with --num_labels {count} "
                f"takes {needed}; see --problem_type"
            )
        wrong = [one for one in labels if one not in range(count)]
        if section.problem != "regression" and wrong:
            raise DataError(
                f"{place}: label {wrong[0]:g} is no class; with --num_labels {count} they are "
                f"0 to {count - 1}"
            )


classifier = ClassObjective
