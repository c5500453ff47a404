"""Losses of embeddings. Axes: B anchors, M other texts, D numbers of a vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from swift.config.task import EmbeddingSection
from swift.losses.loss import Loss


@dataclass(frozen=True)
class Texts:
    """Vectors of anchors and of the texts that belong to them."""

    anchors_BD: torch.Tensor  # float32, of any length
    others_MD: torch.Tensor
    anchor_M: torch.Tensor  # int64: the anchor of each
    labels_M: torch.Tensor  # float32: 1 positive, 0 negative, or how alike they are

    def first(self, count: int) -> Texts:
        """The same with the first numbers of each vector."""
        short = self.anchors_BD[:, :count], self.others_MD[:, :count]
        return Texts(*short, self.anchor_M, self.labels_M)

    def cosines(self) -> torch.Tensor:
        """Of every anchor with every text, (B, M)."""
        return F.normalize(self.anchors_BD, dim=1) @ F.normalize(self.others_MD, dim=1).T

    def own(self, cosines_BM: torch.Tensor) -> torch.Tensor:
        """Those of every text with its anchor, (M,)."""
        return cosines_BM.gather(0, self.anchor_M[None])[0]


def infonce(texts: Texts, section: EmbeddingSection) -> torch.Tensor:
    """-log e^(s(a,p)/t) / (e^(s(a,p)/t) + sum_n e^(s(a,n)/t)), averaged over the positives p of an
    anchor a, with s the cosine and t the temperature.

    InfoNCE (arXiv:1807.03748, equation 4) with the negatives of arXiv:2004.04906, section 3.2: the
    own ones and, ``in_batch``, all texts of other anchors. Other positives of an anchor are none.
    """
    cosines_BM, positive_M = texts.cosines(), texts.labels_M > 0.5
    own_BM = _own(texts)
    negative_BM = ~(own_BM & positive_M) if section.in_batch else own_BM & ~positive_M
    anchor_P = texts.anchor_M[positive_M]
    near_P, all_PM = texts.own(cosines_BM)[positive_M], cosines_BM[anchor_P]
    negative_PM = negative_BM[anchor_P]
    if section.mask_fake_negatives:
        fake_PM = all_PM > near_P[:, None] + section.fake_negative_margin
        negative_PM = negative_PM & ~fake_PM
    far_PM = (all_PM / section.temperature).masked_fill(~negative_PM, _low(all_PM))
    loss_P = F.softplus(far_PM.logsumexp(1) - near_P / section.temperature)
    return (loss_P / torch.bincount(anchor_P)[anchor_P]).sum()


def cosine_similarity(texts: Texts, section: EmbeddingSection) -> torch.Tensor:
    """(s - y)^2 of the cosine s of a pair and its score y (arXiv:1908.10084, section 3)."""
    return (texts.own(texts.cosines()) - texts.labels_M).square().sum()


def contrastive(texts: Texts, section: EmbeddingSection) -> torch.Tensor:
    """(y d^2 + (1 - y) max(0, m - d)^2) / 2, with d = 1 - s of a pair and the margin m.

    Hadsell, Chopra and LeCun 2006, equation 4.
    """
    far_M, alike_M = 1 - texts.own(texts.cosines()), texts.labels_M
    apart_M = (section.margin - far_M).clamp(min=0).square()
    return (alike_M * far_M.square() + (1 - alike_M) * apart_M).sum() / 2


def online_contrastive(texts: Texts, section: EmbeddingSection) -> torch.Tensor:
    """The same without the half, over the hard pairs of a micro-batch: positives farther apart than
    the nearest negative, negatives nearer than the farthest positive. Where there is but one of a
    kind, the others are held against their own mean (as sentence-transformers has it).
    """
    far_M, alike_M = 1 - texts.own(texts.cosines()), texts.labels_M > 0.5
    good, bad = far_M[alike_M], far_M[~alike_M]
    if len(good) and len(bad):
        good, bad = (
            good[good > (bad.min() if len(bad) > 1 else good.mean())],
            bad[bad < (good.max() if len(good) > 1 else bad.mean())],
        )
    return good.square().sum() + (section.margin - bad).clamp(min=0).square().sum()


LOSSES = {
    "infonce": infonce,
    "cosine_similarity": cosine_similarity,
    "contrastive": contrastive,
    "online_contrastive": online_contrastive,
}


def embedding(texts: Texts, section: EmbeddingSection) -> Loss:
    """The loss of a section over whole vectors, and over the beginnings that it names.

    The sum over all sizes is that of Matryoshka (arXiv:2205.13147, equation 1, weights 1).
    """
    sizes = {*section.mrl_dims, texts.anchors_BD.shape[1]}
    total = texts.anchors_BD.new_zeros(())
    for size in sizes:
        total = total + LOSSES[section.loss_type](texts.first(size), section)
    return Loss(total, *_said(texts))


@torch.no_grad()
def _said(texts: Texts) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Metrics: the mean cosine of positives and of own negatives, and ``top1``: how often no text
    of the micro-batch but positives lies nearer to an anchor than its nearest positive.
    """
    cosines_BM, positive_M = texts.cosines(), texts.labels_M > 0.5
    own_M = texts.own(cosines_BM)
    right_BM = _own(texts) & positive_M
    low = _low(cosines_BM)
    best_B, other_B = (  # one column more: a process may have no texts at all
        F.pad(cosines_BM.masked_fill(~mask_BM, low), (0, 1), value=low).amax(1)
        for mask_BM in (right_BM, ~right_BM)
    )
    asked_B = right_BM.any(1) & ~right_BM.all(1)
    sums = {
        "similarity/positive": own_M[positive_M].sum(),
        "similarity/negative": own_M[~positive_M].sum(),
        "top1": ((best_B > other_B) & asked_B).float().sum(),
    }
    counts = {
        "similarity/positive": positive_M.float().sum(),
        "similarity/negative": (~positive_M).float().sum(),
        "top1": asked_B.float().sum(),
    }
    return sums, counts


def _own(texts: Texts) -> torch.Tensor:
    """Which texts belong to which anchor, (B, M)."""
    anchors = torch.arange(len(texts.anchors_BD), device=texts.anchor_M.device)
    return anchors[:, None] == texts.anchor_M


def _low(values: torch.Tensor) -> float:
    """What takes no part in a maximum or in a sum of exponentials; finite, so gradients are."""
    return torch.finfo(values.dtype).min
