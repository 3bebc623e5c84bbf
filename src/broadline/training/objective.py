"""The objective: truth as targets, and losses. The paper's equation 1 in three normalisations, and ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from broadline.finders import encode
from broadline.grid import Grid
from broadline.lines import Line
from broadline.networks.architecture import QuasarNETConfig

__all__ = [
    "Counts",
    "Targets",
    "bal_labels",
    "certain",
    "count",
    "equation_1",
    "inflation",
    "likelihood",
    "targets",
]

Normalisation = Literal["sample", "batch", "spectrum"]
Unsure = Literal["negative", "drop", "weight"]


class Targets(NamedTuple):
    """What the finders should say of each spectrum.

    Attributes
    ----------
    box : Tensor of int64, shape (n, n_lines)
        The box that holds the line's centre; -1 where every box is empty.
    offset : Tensor of float32, shape (n, n_lines)
        Distance from the left edge of the box in units of its length; 0 where box is -1.
    weight : Tensor of float32, shape (n, n_lines)
        How much the line counts for this spectrum; 0 for not at all.
    """

    box: Tensor
    offset: Tensor
    weight: Tensor


class Counts(NamedTuple):
    """The sums over i and alpha that normalise equation 1.

    Attributes
    ----------
    positives, negatives : Tensor of float32, shape (n_lines,)
        Weighted number of boxes with a line, and without.
    n_spectra : int
        Spectra counted, whatever their weight.
    """

    positives: Tensor
    negatives: Tensor
    n_spectra: int


def bal_labels(flag: NDArray[np.bool_], balnicity: NDArray[np.float64]) -> NDArray[np.int8]:
    """Return what is known of broad absorption: 1 for a BAL quasar, 0 for none, -1 for ambiguous.

    Parameters
    ----------
    flag : ndarray of bool, shape (n,)
        Tagged by eye.
    balnicity : ndarray of float64, shape (n,)
        Balnicity index of CIV, km/s; NaN or negative where it was not measured.

    Notes
    -----
    Busca & Balland (2018), section 4.2: of no weight are spectra "either tagged as BAL with BI_CIV=0 or not
    tagged as BAL with BI_CIV>0". An index that was not measured agrees with neither.
    """
    flag, balnicity = np.asarray(flag, dtype=bool), np.asarray(balnicity)
    labels = np.full(flag.shape, -1, dtype=np.int8)
    labels[flag & (balnicity > 0)] = 1
    labels[~flag & (balnicity == 0)] = 0
    return labels


def targets(
    z: NDArray[np.float64],
    is_quasar: NDArray[np.bool_],
    bal: NDArray[np.int8],
    lines: Sequence[Line],
    grid: Grid,
    n_boxes: int,
    confident: NDArray[np.bool_] | NDArray[np.float64] | None = None,
    unsure: Unsure = "drop",
) -> Targets:
    """Return the targets that the truth about some spectra implies.

    Parameters
    ----------
    z : ndarray of float64, shape (n,)
        Redshifts. A quasar whose redshift is NaN has weight 0: it tells nothing.
    is_quasar : ndarray of bool, shape (n,)
        All others have no line, whatever their redshift.
    bal : ndarray of int8, shape (n,)
        As from `bal_labels`. Ambiguous quasars have weight 0 in the BAL finders; stars and galaxies are not
        BAL quasars, whatever the label.
    lines : sequence of Line
    grid : Grid
    n_boxes : int
    confident : ndarray of bool or float, shape (n,), optional
        1 for a firm label, less for one in doubt; all are firm if not given.
    unsure : {"drop", "negative", "weight"}
        Spectra whose label is in doubt have weight 0; or are taught to have no line, as by the code of Busca
        & Balland (2018); or count as labelled with `confident` as their weight.

    Notes
    -----
    Busca & Balland (2018), section 3: Y is 1 in the box that holds the line's centre and 0 in all others, and
    0 everywhere for what is no quasar. The BAL finder is a line like the others that only BAL quasars have.
    """
    quasar, row = certain(is_quasar, confident, unsure)
    row = np.where(quasar & ~np.isfinite(z), 0, row)
    box, offset = encode(np.where(quasar, z, np.nan), lines, grid, n_boxes)
    weight = np.repeat(row[:, None], len(lines), axis=1)
    absorption = np.array([line.bal for line in lines], dtype=bool)
    bal = np.asarray(bal)
    box[np.ix_(bal != 1, absorption)] = -1
    weight[np.ix_(quasar & (bal < 0), absorption)] = 0
    return Targets(
        torch.from_numpy(box),
        torch.from_numpy(np.where(box >= 0, offset, 0).astype(np.float32)),
        torch.from_numpy(weight.astype(np.float32)),
    )


def certain(
    is_quasar: NDArray[np.bool_], confident: NDArray[np.bool_] | NDArray[np.float64] | None, unsure: Unsure
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return what is taught to be a quasar, and how much each spectrum counts, as in `targets`."""
    quasar = np.asarray(is_quasar, dtype=bool)
    firm = np.ones(len(quasar)) if confident is None else np.asarray(confident, dtype=np.float64)
    if unsure == "negative":
        return quasar & (firm >= 1), np.ones(len(quasar))
    return quasar, firm if unsure == "weight" else (firm >= 1).astype(np.float64)


def count(targets: Targets, n_boxes: int) -> Counts:
    """Return the counts of a sample, or of a batch: the denominators of equation 1."""
    seen = targets.box >= 0
    positives = (targets.weight * seen).sum(dim=0)
    negatives = (targets.weight * (n_boxes - seen.int())).sum(dim=0)
    return Counts(positives, negatives, len(targets.weight))


def inflation(config: QuasarNETConfig) -> float:
    """Return by how much `likelihood` makes the logits of confidences in emission lines too large.

    It gives the box with a line the weight of all others together, so that a finder that is right with
    probability p settles at a confidence of p / (p + (1 - p) / n_boxes). The BAL finder, which is asked in
    one box only, is not inflated.
    """
    return math.log(config.n_boxes)


def equation_1(
    logits: Tensor,
    offset_logits: Tensor,
    targets: Targets,
    normalisation: Normalisation = "batch",
    counts: Counts | None = None,
    *,
    offset_range: tuple[float, float],
) -> Tensor:
    """Return the loss of Busca & Balland (2018), equation 1, summed over lines.

    Parameters
    ----------
    logits, offset_logits : Tensor, shape (n, n_lines, n_boxes)
        What the network says before its sigmoids.
    targets : Targets
    normalisation : {"batch", "sample", "spectrum"}
        What the sums over i in the denominators run over (see Notes).
    counts : Counts, optional
        Of the whole sample; needed for "sample" and for nothing else.
    offset_range : (float, float)
        `QuasarNETConfig.offset_range` of the network that said it.

    Returns
    -------
    Tensor
        A scalar: float32, or float64 for logits of that type.

    Raises
    ------
    ValueError
        If the counts of the sample are missing.

    Notes
    -----
    With weights w (1 but where the paper sets 0) every sum over spectra becomes a sum of w times the same,
    above the fraction bar and below. A term without any positive (or negative) box is 0.

    "sample" is the equation as printed: the denominators are those of all spectra, and the numerators of a
    batch are multiplied by n_spectra / n, so that the mean over the equal batches of an epoch is the
    equation.

    "batch" takes the denominators from the batch, as the code of the paper's time did. The Keras of that time
    made weights of 0 and 1 cancel out, so that ambiguous BAL quasars were taught in full, and as BALs: to
    imitate that, label them 1 instead of -1 in `targets`.

    "spectrum" is that code since 2020: each spectrum and line is divided by its own number of boxes with and
    without the line, and terms are averaged over all spectra of the batch, also those of weight 0.

    Both codes clip confidences to [1e-7, 1 - 1e-7] and add 1e-7 to denominators. The latter changes a term by
    1e-7 of itself. The former lets no box cost more than 16.1 and takes the gradient away there: a finder
    that is sure and wrong never learns. Here logarithms are taken of logits and nothing is clipped; such a
    box goes on to cost in proportion to its logit, and to pull.
    """
    logits, offset_logits = _exact(logits), _exact(offset_logits)
    n, _, n_boxes = logits.shape
    if normalisation == "spectrum":
        positive, negative = _per_spectrum(targets, n_boxes)
    else:
        sums = count(targets, n_boxes) if normalisation == "batch" else counts
        if sums is None:
            raise ValueError(f"equation 1 normalised over the {normalisation} needs the sample's counts")
        scaled = targets.weight * (sums.n_spectra / max(n, 1))
        positive, negative = scaled * _inverse(sums.positives), scaled * _inverse(sums.negatives)
    here = _one_hot(targets.box, n_boxes)
    classification = _cross_entropy(logits, here, torch.where(here, positive[..., None], negative[..., None]))
    residual = _at(offset_logits, targets, offset_range) - targets.offset
    return classification + (positive * (targets.box >= 0) * residual.square()).sum()


def likelihood(
    logits: Tensor,
    offset_logits: Tensor,
    log_sigma: Tensor,
    targets: Targets,
    *,
    offset_range: tuple[float, float],
    offset_weight: float = 0.03,
    sigma_floor: float = 1e-3,
    bal: int | None = 6,
    civ: int = 1,
) -> Tensor:
    """Return our loss: classification spectrum by spectrum, offsets by their likelihood, BAL on its own.

    Parameters
    ----------
    logits, offset_logits, log_sigma : Tensor, shape (n, n_lines, n_boxes)
        What the network says before its sigmoids, and the logarithm of the offset's error in boxes.
    targets : Targets
    offset_range : (float, float)
        `QuasarNETConfig.offset_range` of the network that said it.
    offset_weight : float
        Of the offsets beside the classification. 0.02-0.05 is good; 1 swamps the classifier.
    sigma_floor : float
        Added to sigma in quadrature, in boxes: bounds the pull of a line whose sigma is far too small. 1e-3
        is 6 km/s for 52 boxes on the paper's grid, below any error that its pixels allow.
    bal, civ : int
        Columns of the BAL finder and of the emission line at the same wavelength, which tells its place;
        None for a network without BAL finder.

    Returns
    -------
    Tensor
        A scalar: float32, or float64 for logits of that type.

    Notes
    -----
    The classification is that of `equation_1` normalised by "spectrum", which leaves confidences usable as
    probabilities; normalised by the positives of a sample they saturate. The offset term is that of equation
    1, the mean over the positives of each line summed over lines, with the Gaussian
    ``ln s + (X - X_hat)^2 / 2 s^2``, ``s^2 = sigma^2 + sigma_floor^2``, in place of the square.

    The BAL finder is asked in one box only, that of CIV, and only of quasars that have CIV in range: is this
    one a BAL quasar? Its cross-entropy there is averaged over the batch like the others' terms. Its other
    boxes are not trained: read the confidence in the box where the redshift found puts CIV, not the largest.
    """
    logits, offset_logits, log_sigma = _exact(logits), _exact(offset_logits), _exact(log_sigma)
    n, _, n_boxes = logits.shape
    positive, negative = _per_spectrum(targets, n_boxes)
    here = _one_hot(targets.box, n_boxes)
    cost = torch.where(here, positive[..., None], negative[..., None])
    if bal is not None:
        cost[:, bal] = here[:, civ] * (targets.weight[:, bal, None] / max(n, 1))
    # ln s^2: finite at both ends, where sigma itself would be 0 or infinite.
    sigma = _gather(log_sigma, targets.box)
    log_variance = torch.logaddexp(2 * sigma, torch.full_like(sigma, 2 * math.log(sigma_floor)))
    residual = _at(offset_logits, targets, offset_range) - targets.offset
    surprise = 0.5 * (log_variance + residual.square() * torch.exp(-log_variance))
    share = targets.weight * (targets.box >= 0)
    offsets = (share * surprise).sum(dim=0) * _inverse(share.sum(dim=0))
    return _cross_entropy(logits, here, cost) + offset_weight * offsets.sum()


def _exact(x: Tensor) -> Tensor:
    """Return `x` in float32 at least: the sums over a batch do not fit the 8 bits of bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _inverse(x: Tensor) -> Tensor:
    """Return 1 / x, and 0 where x is 0."""
    return torch.where(x > 0, 1 / torch.where(x > 0, x, 1), 0)


def _one_hot(box: Tensor, n_boxes: int) -> Tensor:
    """Return Y of equation 1 as bool, shape (n, n_lines, n_boxes)."""
    return box[..., None] == torch.arange(n_boxes, device=box.device)


def _per_spectrum(targets: Targets, n_boxes: int) -> tuple[Tensor, Tensor]:
    """Return what a box with and one without the line cost, each (n, n_lines), spectrum by spectrum."""
    mean = targets.weight / max(len(targets.weight), 1)
    return mean, mean * _inverse(n_boxes - (targets.box >= 0).to(mean))


def _cross_entropy(logits: Tensor, here: Tensor, cost: Tensor) -> Tensor:
    """Return the sum of `cost` times -ln Y_hat in boxes with the line and -ln(1 - Y_hat) in the others."""
    return (cost * functional.softplus(torch.where(here, -logits, logits))).sum()


def _gather(values: Tensor, box: Tensor) -> Tensor:
    """Return the values in each line's box, (n, n_lines); where there is none, those in the first."""
    return values.gather(2, box.clamp(min=0)[..., None])[..., 0]


def _at(offset_logits: Tensor, targets: Targets, offset_range: tuple[float, float]) -> Tensor:
    """Return the offset predicted in each line's box, (n, n_lines)."""
    low, high = offset_range
    return low + (high - low) * torch.sigmoid(_gather(offset_logits, targets.box))
