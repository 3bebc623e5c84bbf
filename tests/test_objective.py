"""Targets from truth, equation 1 in its three normalisations, and the likelihood of offsets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broadline.finders import encode
from broadline.grid import QUASARNET_LOG
from broadline.lines import LINES, QUASARNET_LINES

torch = pytest.importorskip("torch")

from broadline.training.objective import (  # noqa: E402
    Counts,
    Targets,
    bal_labels,
    count,
    equation_1,
    likelihood,
    targets,
)

PAPER, OURS = (0.0, 1.0), (-0.1, 1.1)
BAL, CIV = 6, 1


def make(box: list, offset: list | None = None, weight: list | None = None) -> Targets:
    """Return targets in float64, with offsets of 0.25 and weights of 1 unless given."""
    box_ = torch.tensor(box)
    full = {"offset": 0.25 * (box_ >= 0), "weight": torch.ones(box_.shape)}
    given_ = {"offset": offset, "weight": weight}
    both = [torch.as_tensor(full[k] if v is None else v, dtype=torch.float64) for k, v in given_.items()]
    return Targets(box_, *both)


def random_targets(rng: np.random.Generator, n: int, n_lines: int, n_boxes: int) -> Targets:
    box = rng.integers(-1, n_boxes, (n, n_lines))
    weight = rng.choice([0.0, 0.5, 1.0], (n, n_lines), p=[0.2, 0.2, 0.6])
    return make(box.tolist(), np.where(box >= 0, rng.random(box.shape), 0).tolist(), weight.tolist())


def random_logits(rng: np.random.Generator, *shape: int, heads: int = 2, scale: float = 2.0) -> list:
    return [torch.tensor(rng.normal(0, scale, shape), requires_grad=True) for _ in range(heads)]


def gradients(loss: torch.Tensor, inputs: list) -> list[torch.Tensor]:
    """Return the gradient in each input, 0 where the loss does not know it."""
    if not loss.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    return list(
        torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
    )


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, inputs: list, **tolerance: float) -> None:
    """Value and gradient are the same."""
    torch.testing.assert_close(ours, theirs, **tolerance)
    for a, b in zip(gradients(ours, inputs), gradients(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


EXACT = {"rtol": 1e-7, "atol": 1e-10}

# ---- equation 1, transcribed


def dense(t: Targets, n_boxes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Y and X of equation 1; X is only meaningful where Y is 1."""
    y = torch.zeros(*t.box.shape, n_boxes, dtype=torch.float64)
    for i, line in np.ndindex(*t.box.shape):
        if t.box[i, line] >= 0:
            y[i, line, t.box[i, line]] = 1
    return y, t.offset[..., None].expand(y.shape)


def printed(logits, offset_logits, t: Targets, reach: tuple[float, float], sample: Targets | None = None):
    """Equation 1 as it is printed, a sum for a sum; w multiplies each sum's terms.

    With `sample`, the denominators are the sample's, the numerators those of the batch.
    """
    n_boxes = logits.shape[2]
    y_hat, x_hat = torch.sigmoid(logits), reach[0] + (reach[1] - reach[0]) * torch.sigmoid(offset_logits)
    y, x = dense(t, n_boxes)
    y_below = dense(sample or t, n_boxes)[0]
    total = torch.zeros((), dtype=torch.float64)
    for line in range(y.shape[1]):
        w, w_below = t.weight[:, line, None], (sample or t).weight[:, line, None]
        above = (
            (w * y[:, line] * torch.log(y_hat[:, line])).sum(),
            (w * (1 - y[:, line]) * torch.log(1 - y_hat[:, line])).sum(),
            (w * y[:, line] * (x[:, line] - x_hat[:, line]) ** 2).sum(),
        )
        positives = (w_below * y_below[:, line]).sum()
        negatives = (w_below * (1 - y_below[:, line])).sum()
        for term, sign, below in zip(above, (-1, -1, 1), (positives, negatives, positives), strict=True):
            if below > 0:
                total = total + sign * term / below
    return total


def keras(logits, offset_logits, t: Targets, reach: tuple[float, float]):
    """The formula of the public code since 2020, its epsilons included, averaged as tensorflow.keras does."""
    epsilon, n_boxes = 1e-7, logits.shape[2]
    y, x = dense(t, n_boxes)
    y_hat, x_hat = torch.sigmoid(logits), reach[0] + (reach[1] - reach[0]) * torch.sigmoid(offset_logits)
    n_1, n_2 = y.sum(2) + epsilon, (1 - y).sum(2) + epsilon
    score = -(y * torch.log(y_hat.clip(epsilon, 1 - epsilon))).sum(2) / n_1
    score = score - ((1 - y) * torch.log((1 - y_hat).clip(epsilon, 1 - epsilon))).sum(2) / n_2
    score = score + (y * (x - x_hat) ** 2).sum(2) / n_1
    return (score * t.weight).mean(0).sum()


@pytest.mark.parametrize("reach", [PAPER, OURS])
@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(1, 7)),
    seed=st.integers(0, 2**32 - 1),
)
def test_over_the_batch_value_and_gradient_are_those_of_the_printed_equation(
    reach: tuple[float, float], shape: tuple[int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    t, inputs = random_targets(rng, *shape), random_logits(rng, *shape)
    assert_same(
        equation_1(*inputs, t, "batch", offset_range=reach), printed(*inputs, t, reach), inputs, **EXACT
    )


def test_over_the_sample_the_mean_over_the_batches_of_an_epoch_is_the_printed_equation() -> None:
    rng = np.random.default_rng(5)
    t, inputs = random_targets(rng, 60, 7, 13), random_logits(rng, 60, 7, 13)
    counts = count(t, 13)
    parts = [slice(i, i + 12) for i in range(0, 60, 12)]
    batches = [
        equation_1(*(x[p] for x in inputs), Targets(*(x[p] for x in t)), "sample", counts, offset_range=PAPER)
        for p in parts
    ]
    assert_same(torch.stack(batches).mean(), printed(*inputs, t, PAPER), inputs, **EXACT)
    first = [x[:12] for x in inputs]
    alone = printed(*first, Targets(*(x[:12] for x in t)), PAPER, sample=t) * (60 / 12)
    torch.testing.assert_close(batches[0], alone, **EXACT)


@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(2, 7)),
    seed=st.integers(0, 2**32 - 1),
)
def test_by_spectrum_value_and_gradient_are_those_of_the_keras_formula(
    shape: tuple[int, int, int], seed: int
) -> None:
    """To the 1e-7 that its epsilons make."""
    rng = np.random.default_rng(seed)
    t, inputs = random_targets(rng, *shape), random_logits(rng, *shape)
    ours = equation_1(*inputs, t, "spectrum", offset_range=OURS)
    assert_same(ours, keras(*inputs, t, OURS), inputs, rtol=1e-6, atol=1e-9)


def test_where_keras_clips_a_sure_and_wrong_finder_its_gradient_is_gone_and_ours_is_not() -> None:
    logits = torch.tensor([[[-30.0, -5.0]]], dtype=torch.float64, requires_grad=True)
    offsets = torch.zeros_like(logits).requires_grad_()
    t = make([[0]])
    ours = equation_1(logits, offsets, t, "spectrum", offset_range=OURS)
    theirs = keras(logits, offsets, t, OURS)
    assert gradients(theirs, [logits])[0][0, 0, 0] == 0
    assert gradients(ours, [logits])[0][0, 0, 0] == pytest.approx(-1)
    assert (ours - theirs).item() == pytest.approx(30 - math.log(1e7), abs=1e-4)


def test_one_spectrum_one_line_two_boxes_by_hand() -> None:
    """Y_hat = (3/4, 1/2), the line in the first box at 0.25, X_hat = 1/2 there: ln 4/3 + ln 2 + 1/16."""
    logits = torch.tensor([[[math.log(3), 0.0]]])
    offsets = torch.zeros(1, 1, 2)
    expected = math.log(4 / 3) + math.log(2) + 1 / 16
    for normalisation in ("batch", "spectrum"):
        loss = equation_1(logits, offsets, make([[0]]), normalisation, offset_range=PAPER)
        assert loss.item() == pytest.approx(expected, rel=1e-6)
    # In a sample of 4 with 2 lines and 6 empty boxes this spectrum stands for all four.
    counts = Counts(torch.tensor([2.0]), torch.tensor([6.0]), 4)
    loss = equation_1(logits, offsets, make([[0]]), "sample", counts, offset_range=PAPER)
    assert loss.item() == pytest.approx(4 * ((math.log(4 / 3) + 1 / 16) / 2 + math.log(2) / 6), rel=1e-6)


def test_the_sample_without_its_counts_is_an_error() -> None:
    with pytest.raises(ValueError, match="counts"):
        equation_1(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), make([[0]]), "sample", offset_range=PAPER)


def test_counts_of_parts_add_up_and_hold_every_box() -> None:
    t = random_targets(np.random.default_rng(2), 50, 7, 13)
    whole = count(t, 13)
    a, b = (count(Targets(*(x[part] for x in t)), 13) for part in np.split(np.arange(50), [17]))
    torch.testing.assert_close(whole.positives, a.positives + b.positives)
    torch.testing.assert_close(whole.negatives, a.negatives + b.negatives)
    torch.testing.assert_close(whole.positives + whole.negatives, 13 * t.weight.sum(0))
    assert whole.n_spectra == a.n_spectra + b.n_spectra == 50


# ---- the likelihood


def by_the_letter(logits, offset_logits, log_sigma, t: Targets, weight: float, floor: float):
    """Our loss one spectrum and line at a time, in float64."""
    n, n_lines, n_boxes = logits.shape
    y_hat, x_hat = torch.sigmoid(logits), -0.1 + 1.2 * torch.sigmoid(offset_logits)
    total, surprise, positives = torch.zeros((), dtype=torch.float64), [0.0] * n_lines, [0.0] * n_lines
    for i, line in np.ndindex(n, n_lines):
        w, box = t.weight[i, line], int(t.box[i, line])
        if line == BAL:
            place = int(t.box[i, CIV])
            if place >= 0:
                p = y_hat[i, line, place]
                total = total - w * torch.log(p if box == place else 1 - p) / n
        else:
            empty = [b for b in range(n_boxes) if b != box]
            if box >= 0:
                total = total - w * torch.log(y_hat[i, line, box]) / n
            total = total - w * torch.log(1 - y_hat[i, line, empty]).mean() / n
        if box >= 0:
            variance = torch.exp(log_sigma[i, line, box]) ** 2 + floor**2
            square = (t.offset[i, line] - x_hat[i, line, box]) ** 2
            surprise[line] = surprise[line] + w * (torch.log(variance) + square / variance) / 2
            positives[line] += w
    return total + weight * sum(s / p for s, p in zip(surprise, positives, strict=True) if p > 0)


def quasar_targets(rng: np.random.Generator, n: int, n_boxes: int) -> Targets:
    """Return targets of seven lines whose BAL finder has its place at CIV."""
    t = random_targets(rng, n, 7, n_boxes)
    t.box[:, BAL] = torch.where(torch.tensor(rng.random(n) < 0.5), t.box[:, CIV], -1)
    t.offset[:, BAL] = torch.where(t.box[:, BAL] >= 0, t.offset[:, CIV], 0)
    return t


@settings(max_examples=20)
@given(n=st.integers(1, 9), n_boxes=st.integers(2, 6), seed=st.integers(0, 2**32 - 1))
def test_the_likelihood_is_what_its_description_says(n: int, n_boxes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    t, inputs = quasar_targets(rng, n, n_boxes), random_logits(rng, n, 7, n_boxes, heads=3)
    ours = likelihood(*inputs, t, offset_range=OURS, offset_weight=0.05, sigma_floor=0.01)
    assert_same(ours, by_the_letter(*inputs, t, 0.05, 0.01), inputs, **EXACT)


def test_one_line_by_hand() -> None:
    """Y_hat = (3/4, 1/2), X - X_hat = -1/4, sigma = 1/4: ln 4/3 + ln 2 + w (ln 1/4 + 1/2)."""
    inputs = torch.tensor([[[math.log(3), 0.0]]]), torch.zeros(1, 1, 2), torch.full((1, 1, 2), math.log(0.25))
    loss = likelihood(*inputs, make([[0]]), offset_range=PAPER, offset_weight=0.5, bal=None)
    assert loss.item() == pytest.approx(
        math.log(4 / 3) + math.log(2) + 0.5 * (math.log(0.25) + 0.5), rel=1e-4
    )


def test_the_sigma_of_least_cost_is_the_scatter_of_the_offsets() -> None:
    rng = np.random.default_rng(3)
    offset = rng.normal(0.5, 0.07, 2000)
    t = make(np.zeros((2000, 1), int).tolist(), offset[:, None].tolist())
    sigmas, nothing = np.arange(0.05, 0.1, 0.001), torch.zeros(2000, 1, 1)
    costs = [
        likelihood(nothing, nothing, nothing + math.log(sigma), t, offset_range=PAPER, bal=None).item()
        for sigma in sigmas
    ]
    assert sigmas[np.argmin(costs)] == pytest.approx(np.sqrt(((offset - 0.5) ** 2).mean()), abs=1e-3)


def test_the_bal_finder_is_taught_at_civ_of_quasars_and_nowhere_else() -> None:
    box = np.full((4, 7), -1)
    box[:3, CIV] = 2  # a BAL quasar, another quasar, an ambiguous one, a star
    box[0, BAL] = 2
    weight = np.ones((4, 7))
    weight[2, BAL] = 0
    logits = torch.zeros(4, 7, 5, requires_grad=True)
    rest = torch.zeros(4, 7, 5)
    likelihood(logits, rest, rest, make(box.tolist(), None, weight.tolist()), offset_range=OURS).backward()
    assert logits.grad is not None
    expected = torch.zeros(4, 5)
    expected[0, 2], expected[1, 2] = -0.5 / 4, 0.5 / 4
    torch.testing.assert_close(logits.grad[:, BAL], expected)
    assert (logits.grad[3, :BAL] > 0).all(), "the star still teaches the other finders"


# ---- all losses

LOSSES = {
    **{
        f"equation_1, {normalisation}": lambda a, b, c, t, normalisation=normalisation: equation_1(
            a, b, t, normalisation, count(t, a.shape[2]), offset_range=OURS
        )
        for normalisation in ("batch", "sample", "spectrum")
    },
    "likelihood": lambda a, b, c, t: likelihood(a, b, c, t, offset_range=OURS),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@each_loss
@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_give_finite_values_and_gradients(loss, size: float, dtype: torch.dtype) -> None:
    t = quasar_targets(np.random.default_rng(4), 40, 13)
    inputs = [torch.full((40, 7, 13), size, dtype=dtype, requires_grad=True) for _ in range(3)]
    value = loss(*inputs, t)
    value.backward()
    assert torch.isfinite(value) and value > 1
    assert all(torch.isfinite(x.grad).all() for x in inputs if x.grad is not None)
    assert inputs[0].grad is not None and inputs[0].grad.abs().sum() > 0, "the wrong ones are still pulled"


@each_loss
def test_what_has_weight_0_has_no_gradient_and_no_say(loss) -> None:
    rng = np.random.default_rng(6)
    t, inputs = quasar_targets(rng, 30, 13), random_logits(rng, 30, 7, 13, heads=3)
    t.weight[:10] = 0
    t.weight[10:20, BAL] = 0
    value = loss(*inputs, t)
    grads = gradients(value, inputs)
    for grad in grads:
        assert (grad[:10] == 0).all() and (grad[10:20, BAL] == 0).all()
    t.box[:10], t.offset[:10] = -1, 0
    t.box[10:20, BAL] = -1
    torch.testing.assert_close(loss(*inputs, t), value, **EXACT)


@each_loss
def test_the_order_of_spectra_does_not_matter(loss) -> None:
    rng = np.random.default_rng(7)
    t, inputs = quasar_targets(rng, 30, 13), random_logits(rng, 30, 7, 13, heads=3)
    order = torch.tensor(rng.permutation(30))
    shuffled = loss(*(x[order] for x in inputs), Targets(*(x[order] for x in t)))
    torch.testing.assert_close(shuffled, loss(*inputs, t), **EXACT)


@each_loss
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_without_any_quasar_the_loss_is_finite_and_offsets_cost_nothing(loss, weight: float) -> None:
    inputs = random_logits(np.random.default_rng(8), 20, 7, 13, heads=3)
    t = make(np.full((20, 7), -1).tolist(), None, np.full((20, 7), weight).tolist())
    value = loss(*inputs, t)
    grads = gradients(value, inputs)
    assert torch.isfinite(value) and (value > 0) == (weight > 0)
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert all((grad == 0).all() for grad in grads[1:])


@each_loss
def test_a_batch_of_nothing_costs_nothing(loss) -> None:
    empty = Targets(torch.zeros(0, 7, dtype=torch.int64), torch.zeros(0, 7), torch.zeros(0, 7))
    assert loss(*(torch.zeros(0, 7, 13) for _ in range(3)), empty).item() == 0


@each_loss
def test_under_autocast_the_loss_is_that_of_float32(loss) -> None:
    """Of the logits that bfloat16 gave: nothing after them is rounded."""
    rng = np.random.default_rng(9)
    t = Targets(*(x if x.dtype == torch.int64 else x.float() for x in quasar_targets(rng, 256, 52)))
    features, head = torch.randn(256, 16), torch.nn.Linear(16, 7 * 52)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(features).view(256, 7, 52)
        assert logits.dtype == torch.bfloat16
        value = loss(logits, logits, logits, t)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(*(logits.float() for _ in range(3)), t))
    value.backward()
    assert head.weight.grad is not None and torch.isfinite(head.weight.grad).all()


# ---- targets

Z = np.array([2.5, 2.5, 2.5, 0.3, 2.5, 0.0, np.nan])
QUASAR = np.array([True, True, True, True, False, False, True])
LABEL = np.array([1, 0, -1, 0, 1, -1, 0], dtype=np.int8)


def truth(**changes) -> Targets:
    fields = {"z": Z, "is_quasar": QUASAR, "bal": LABEL, "lines": QUASARNET_LINES, "grid": QUASARNET_LOG}
    return targets(**(fields | {"n_boxes": 13} | changes))


def test_targets_are_the_encoded_lines_of_quasars() -> None:
    t = truth()
    box, offset = encode(Z, QUASARNET_LINES, QUASARNET_LOG, 13)
    np.testing.assert_array_equal(t.box[:4, :6], box[:4, :6])
    np.testing.assert_allclose(t.offset[:4, :6], np.nan_to_num(offset[:4, :6]), rtol=1e-6)
    assert [x.dtype for x in t] == [torch.int64, torch.float32, torch.float32]
    assert (box[:4, :6] >= 0).any(axis=0).all(), "every line is seen in one of these quasars"


def test_what_is_no_quasar_has_no_line_at_any_redshift() -> None:
    t = truth()
    assert (t.box[4:6] == -1).all() and (t.offset[4:6] == 0).all() and (t.weight[4:6] == 1).all()


def test_a_quasar_of_unknown_redshift_does_not_count() -> None:
    assert (truth().weight[6] == 0).all()
    assert torch.isfinite(truth().offset).all()


def test_the_bal_finder_has_its_box_at_civ_of_bal_quasars_only() -> None:
    t = truth()
    assert t.box[0, BAL] == t.box[0, CIV] >= 0
    assert t.offset[0, BAL] == t.offset[0, CIV]
    assert (t.box[1:, BAL] == -1).all()
    assert t.weight[:6, BAL].tolist() == [1, 1, 0, 1, 1, 1]
    assert (t.weight[:6, :BAL] == 1).all(), "the other finders are taught by ambiguous BALs too"


def test_flag_and_balnicity_must_agree() -> None:
    flag = np.array([1, 1, 0, 0, 1, 0, 1, 0], dtype=bool)
    balnicity = np.array([900.0, 0.0, 0.0, 900.0, np.nan, np.nan, -1.0, -1.0])
    assert bal_labels(flag, balnicity).tolist() == [1, -1, 0, -1, -1, -1, -1, -1]


@pytest.mark.parametrize(
    ("unsure", "weights", "seen"),
    [
        ("drop", [0, 1], [True, True]),
        ("negative", [1, 1], [False, True]),
        ("weight", [0.25, 1], [True, True]),
    ],
)
def test_a_label_in_doubt_is_dropped_or_no_line_or_weighted(unsure, weights: list, seen: list) -> None:
    confident = np.array([0.25, 1])
    t = truth(z=Z[:2], is_quasar=QUASAR[:2], bal=LABEL[:2], confident=confident, unsure=unsure)
    assert t.weight[:, CIV].tolist() == weights
    assert (t.box[:, CIV] >= 0).tolist() == seen


def test_a_network_without_bal_finder_has_targets_too() -> None:
    lines = [LINES["LYA"], LINES["CIV"]]
    np.testing.assert_array_equal(truth(lines=lines).box, truth().box[:, :2])
