"""Losses of preference pairs: one small function each, over log-probabilities of whole answers.

Axes: P pairs. Every function takes the pairs and the settings of a run and returns the loss of
every pair, (P,); the loop sums and divides. ``b`` is beta, ``r`` the log-ratio of model and
reference, ``s`` the score that an f-divergence makes of it, ``w`` the chosen and ``l`` the rejected
answer, ``d = s_w - s_l``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from swift import registry
from swift.config.alignment import CpoSection, DpoSection, OrpoSection, SimpoSection
from swift.losses.loss import Loss

_MOST_EXPONENT = 80.0  # e^80 is a number in float32 and bfloat16


@dataclass(frozen=True)
class Pairs:
    """What model and reference say of the answers of pairs; all float32 (P,).

    A log-probability is the sum over the learned tokens of an answer, a mean that of one of them on
    average; a length is their number.
    """

    chosen: torch.Tensor
    rejected: torch.Tensor
    ref_chosen: torch.Tensor
    ref_rejected: torch.Tensor
    chosen_length: torch.Tensor
    rejected_length: torch.Tensor
    chosen_mean: torch.Tensor
    rejected_mean: torch.Tensor

    @property
    def chosen_ratio(self) -> torch.Tensor:
        """Log-ratio of model and reference of the chosen answers."""
        return self.chosen - self.ref_chosen

    @property
    def rejected_ratio(self) -> torch.Tensor:
        """The same of the rejected ones."""
        return self.rejected - self.ref_rejected


PairLoss = Callable[[Pairs, DpoSection], torch.Tensor]


def dpo(pairs: Pairs, section: DpoSection) -> Loss:
    """The losses of a run, weighted and added up, and its metrics."""
    weights = section.loss_weights or [1.0] * len(section.loss_type)
    terms = [
        weight * loss_of(name)(pairs, section)
        for name, weight in zip(section.loss_type, weights, strict=True)
    ]
    if section.rpo_alpha:
        terms.append(section.rpo_alpha * sft(pairs, section))
    loss_P = torch.stack(terms).sum(0)
    ratios = pairs.chosen_ratio, pairs.rejected_ratio
    return Loss(loss_P.sum(), _rewards(section.beta * ratios[0], section.beta * ratios[1]))


def loss_of(name: str) -> PairLoss:
    """The function behind the name of a loss."""
    found: PairLoss = registry.load("pair loss", name)
    return found


def sigmoid(pairs: Pairs, section: DpoSection) -> torch.Tensor:
    """DPO, -log sigmoid of b d (arXiv:2305.18290, equation 7).

    With label smoothing e, (1-e) times that and e times the same of -d: conservative DPO.
    """
    return _smoothed(section.beta * _difference(pairs, section), section.label_smoothing)


def robust(pairs: Pairs, section: DpoSection) -> torch.Tensor:
    """((1-e) L(d) - e L(-d)) / (1-2e), L = -log sigmoid(b .): unbiased where a share e of labels is
    wrong (arXiv:2403.00409, equation 12).
    """
    d, e = section.beta * _difference(pairs, section), section.label_smoothing
    return (-(1 - e) * F.logsigmoid(d) + e * F.logsigmoid(-d)) / (1 - 2 * e)


def exo_pair(pairs: Pairs, section: DpoSection) -> torch.Tensor:
    """KL((p, 1-p) || (1-e, e)) with p = sigmoid(b d): EXO (arXiv:2402.00856, equation 16).

    It is infinite without smoothing: e is 0.001 where none is given, as in the paper.
    """
    d, e = section.beta * _difference(pairs, section), section.label_smoothing or 1e-3
    first = d.sigmoid() * (F.logsigmoid(d) - math.log1p(-e))
    return first + (-d).sigmoid() * (F.logsigmoid(-d) - math.log(e))


def hinge(pairs: Pairs, section: DpoSection) -> torch.Tensor:
    """max(0, 1 - b d): SLiC's loss on DPO's rewards (arXiv:2309.06657, equation 14)."""
    return torch.relu(1 - section.beta * _difference(pairs, section))


def ipo(pairs: Pairs, section: DpoSection) -> torch.Tensor:
    """(d - 1/(2 b))^2, each score divided by the length of its answer (arXiv:2310.12036, equation
    17; by token as its authors did, see TRL).
    """
    chosen, rejected = _scores(pairs, section)
    d = chosen / pairs.chosen_length.clamp(min=1) - rejected / pairs.rejected_length.clamp(min=1)
    return (d - 1 / (2 * section.beta)) ** 2


def bco_pair(pairs: Pairs, section: DpoSection) -> torch.Tensor:
    """-log sigmoid(b r_w) - log sigmoid(-b r_l): binary classifier optimization
    (arXiv:2404.04656), of pairs and without its shift, as MPO has it (arXiv:2411.10442).
    """
    chosen, rejected = section.beta * pairs.chosen_ratio, section.beta * pairs.rejected_ratio
    return -F.logsigmoid(chosen) - F.logsigmoid(-rejected)


def sppo_hard(pairs: Pairs, section: DpoSection) -> torch.Tensor:
    """(r_w - 1/(2b))^2 + (r_l + 1/(2b))^2: SPPO where the chosen answer always wins
    (arXiv:2405.00675, equation 4.7 with P = 1 and 0).
    """
    half = 0.5 / section.beta
    return (pairs.chosen_ratio - half) ** 2 + (pairs.rejected_ratio + half) ** 2


def nca_pair(pairs: Pairs, section: DpoSection) -> torch.Tensor:
    """-log sigmoid(b r_w) - (log sigmoid(-b r_w) + log sigmoid(-b r_l)) / 2: noise contrastive
    alignment (arXiv:2402.05369, equation 11 for two answers).
    """
    chosen, rejected = section.beta * pairs.chosen_ratio, section.beta * pairs.rejected_ratio
    return -F.logsigmoid(chosen) - 0.5 * (F.logsigmoid(-chosen) + F.logsigmoid(-rejected))


def aot(pairs: Pairs, section: DpoSection) -> torch.Tensor:
    """DPO's loss between the sorted differences of the model and those of the reference: alignment
    by optimal transport (arXiv:2406.05882, algorithm 1, paired).

    It compares distributions, and takes those of a micro-batch.
    """
    ours, theirs = pairs.chosen - pairs.rejected, pairs.ref_chosen - pairs.ref_rejected
    return _smoothed(
        section.beta * (ours.sort().values - theirs.sort().values), section.label_smoothing
    )


def aot_unpaired(pairs: Pairs, section: DpoSection) -> torch.Tensor:
    """DPO's loss between the sorted ratios of chosen answers and those of rejected ones
    (arXiv:2406.05882, algorithm 1, unpaired); of a micro-batch.
    """
    d = pairs.chosen_ratio.sort().values - pairs.rejected_ratio.sort().values
    return _smoothed(section.beta * d, section.label_smoothing)


def apo_zero(pairs: Pairs, section: DpoSection) -> torch.Tensor:
    """1 - sigmoid(b r_w) + sigmoid(b r_l): chosen answers become likelier and rejected ones less
    (arXiv:2408.06266, equation 7).
    """
    chosen, rejected = section.beta * pairs.chosen_ratio, section.beta * pairs.rejected_ratio
    return (-chosen).sigmoid() + rejected.sigmoid()


def apo_down(pairs: Pairs, section: DpoSection) -> torch.Tensor:
    """sigmoid(b r_w) + 1 - sigmoid(b (r_w - r_l)): both become less likely, rejected ones more so
    (arXiv:2408.06266, equation 8).
    """
    chosen, rejected = section.beta * pairs.chosen_ratio, section.beta * pairs.rejected_ratio
    return chosen.sigmoid() + (rejected - chosen).sigmoid()


def discopop(pairs: Pairs, section: DpoSection) -> torch.Tensor:
    """(1-m) (-log sigmoid(b d)) + m exp(-b d) with m = sigmoid(b d / tau): the log-ratio modulated
    loss (arXiv:2406.08414, equation 5).
    """
    d = section.beta * _difference(pairs, section)
    share = (d / section.discopop_tau).sigmoid()
    return -F.logsigmoid(d) * (1 - share) + (-d).exp() * share


def sft(pairs: Pairs, section: DpoSection) -> torch.Tensor:
    """-log pi(w) / length of w: the generation loss of MPO (arXiv:2411.10442) and of iterative RPO
    (arXiv:2404.19733, equation 1).

    By answer, as they have it: so it is the same however a step is cut. TRL's is by token over a
    whole micro-batch.
    """
    return -pairs.chosen_mean


def cpo(pairs: Pairs, section: CpoSection) -> Loss:
    """-log sigmoid(b (log pi(w) - log pi(l))) - alpha log pi(w) / length (arXiv:2401.08417,
    equation 3), or with hinge or ipo in place of the first term.

    ipo takes log-probabilities by token, as TRL does.
    """
    by_token = section.loss_type == "ipo"
    chosen, rejected = (
        (pairs.chosen_mean, pairs.rejected_mean) if by_token else (pairs.chosen, pairs.rejected)
    )
    d = chosen - rejected
    if section.loss_type == "hinge":
        loss_P = torch.relu(1 - section.beta * d)
    elif by_token:
        loss_P = (d - 1 / (2 * section.beta)) ** 2
    else:
        loss_P = _smoothed(section.beta * d, section.label_smoothing)
    return _with_nll(
        loss_P, pairs, section.cpo_alpha, section.beta * chosen, section.beta * rejected
    )


def simpo(pairs: Pairs, section: SimpoSection) -> Loss:
    """-log sigmoid(b (mean_w - mean_l) - gamma), means by token (arXiv:2405.14734, equation 6);
    and cpo_alpha times the loss of fine-tuning on w (CPO-SimPO).
    """
    chosen, rejected = section.beta * pairs.chosen_mean, section.beta * pairs.rejected_mean
    loss_P = _smoothed(chosen - rejected - section.simpo_gamma, section.label_smoothing)
    return _with_nll(loss_P, pairs, section.cpo_alpha, chosen, rejected)


def orpo(pairs: Pairs, section: OrpoSection) -> Loss:
    """-mean_w - b log sigmoid(log odds(w) - log odds(l)), odds of exp(mean) (arXiv:2403.07691,
    equations 4 to 7).

    The first term is over the answer, as in the paper; TRL takes the prompt with it.
    """
    chosen, rejected = pairs.chosen_mean, pairs.rejected_mean
    odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
    ratio = F.logsigmoid(odds)
    beta = section.beta
    found = _with_nll(-beta * ratio, pairs, 1.0, beta * chosen, beta * rejected)
    sums = {"log_odds_ratio": ratio.detach().sum(), "log_odds_chosen": odds.detach().sum()}
    return Loss(found.total, {**found.sums, **sums})


def _with_nll(
    loss_P: torch.Tensor,
    pairs: Pairs,
    alpha: float,
    chosen: torch.Tensor,
    rejected: torch.Tensor,
) -> Loss:
    """A loss with ``alpha`` times that of fine-tuning on the chosen answers; and rewards."""
    nll_P = -pairs.chosen_mean
    sums = {**_rewards(chosen, rejected), "nll_loss": nll_P.detach().sum()}
    return Loss((loss_P + alpha * nll_P).sum(), sums)


def _rewards(chosen_P: torch.Tensor, rejected_P: torch.Tensor) -> dict[str, torch.Tensor]:
    """Metrics of rewards, named as TRL names them."""
    chosen, rejected = chosen_P.detach(), rejected_P.detach()
    return {
        "rewards/chosen": chosen.sum(),
        "rewards/rejected": rejected.sum(),
        "rewards/accuracies": (chosen > rejected).float().sum(),
        "rewards/margins": (chosen - rejected).sum(),
    }


def _smoothed(d_P: torch.Tensor, smoothing: float) -> torch.Tensor:
    return -F.logsigmoid(d_P) * (1 - smoothing) - F.logsigmoid(-d_P) * smoothing


def _difference(pairs: Pairs, section: DpoSection) -> torch.Tensor:
    chosen, rejected = _scores(pairs, section)
    return chosen - rejected


def _scores(pairs: Pairs, section: DpoSection) -> tuple[torch.Tensor, torch.Tensor]:
    return _score(pairs.chosen_ratio, section), _score(pairs.rejected_ratio, section)


def _score(ratio_P: torch.Tensor, section: DpoSection) -> torch.Tensor:
    """f'(t) of t = exp(ratio), without constants that cancel (arXiv:2309.16240, table 1)."""
    alpha = section.f_alpha_divergence_coef
    match section.f_divergence_type:
        case "forward_kl":
            return 1 - (-ratio_P).exp()
        case "js_divergence":
            return math.log(2) + F.logsigmoid(ratio_P)
        case "alpha_divergence" if abs(alpha - 1) >= 1e-6:
            exponent = ((alpha - 1) * ratio_P).clamp(max=_MOST_EXPONENT)
            return (exponent.exp() - 1) / (alpha - 1)
        case _:
            return ratio_P


def _log1mexp(x: torch.Tensor) -> torch.Tensor:
    """log(1 - exp(x)) for x < 0, without losing digits at either end."""
    near = x > -math.log(2)
    small = torch.where(near, x, torch.full_like(x, -1.0))
    large = torch.where(near, torch.full_like(x, -1.0), x)
    return torch.where(near, (-torch.expm1(small)).log(), torch.log1p(-large.exp()))
