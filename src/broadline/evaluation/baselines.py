"""Other classifiers on the same spectra: the pipeline alone, with inspection, and with a catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from broadline.decision import CONFLICT_KMS, Rule, velocity
from broadline.errors import UsageError
from broadline.evaluation.fits_read import N_FITS, Calls, Fits, read_answers
from broadline.evaluation.sample import Sample
from broadline.evaluation.shares import Floats, Ints, Mask, Share
from broadline.evaluation.study import Baseline, Study
from broadline.truth import GALAXY, QSO, STAR

__all__ = [
    "Fits",
    "Verdict",
    "agreement",
    "authors_script",
    "auto",
    "dr14q",
    "dr16q",
    "read_baseline",
    "read_baselines",
    "settle",
    "two_lines",
]

#: Below this redshift a best fit GALAXY is believed at once (Paris et al. 2018; Lyke et al. 2020).
_GALAXY_Z = 1.0
#: DR16Q inspects quasars of the pipeline beyond the one, and believes QuasarNET below the other.
_HIGH_Z, _QN_Z = 3.5, 2.0
#: What a catalogue may say beyond its calls.
_MORE = ("c", "c_bal", "p_qso", "p_z", "p_bal", "z_err")


class Verdict(NamedTuple):
    """What a rule makes of spectra; every array is of shape (n,).

    Attributes
    ----------
    quasar : ndarray of bool
        Called quasar without anybody looking.
    z : ndarray of float64
        NaN where there is none.
    known : ndarray of bool
        Spectra that the rule has anything to go by. The others are not called quasar.
    inspected : ndarray of bool, optional
        Sent to an expert; None if the rule knows no inspection.
    """

    quasar: Mask
    z: Floats
    known: Mask
    inspected: Mask | None = None


# ---- rules for the pipeline's fits


def auto(fits: Fits) -> Verdict:
    """Return the pipeline's own verdict: quasar if the best fit is QSO and ZWARNING is 0.

    "auto" of Busca & Balland (2018), section 4.1, after Bolton et al. (2012, AJ 144, 144), who set ZWARNING
    to 0 for confident fits. The paper leaves open what becomes of the others; here they are not called.
    """
    return Verdict(_is(fits, QSO) & (fits.zwarning == 0), fits.z[:, 0], fits.known)


def dr14q(fits: Fits) -> Verdict:
    """Return "auto+VI", the decision tree of DR14Q: Paris et al. (2018, A&A 613, A51), page 4.

    Alternates are fits 2 to 5, redshift and ZWARNING those of the best fit.

    1. Best fit STAR: STAR, at redshift 0.
    2. Best fit GALAXY with z < 1: GALAXY.
    3. Best fit GALAXY with z >= 1 and at least two alternates GALAXY: GALAXY. The paper prints "<= 1", which
       rule 2 has already dealt with; Lyke et al. (2020) print ">= 1" for its successor.
    4. Best fit QSO with ZWARNING = 0: QSO, but STAR if at least two alternates are STAR.
    5. Best fit QSO with ZWARNING > 0 and at least two alternates STAR: STAR.
    6. Else inspection.

    Raises
    ------
    UsageError
        If there are not five fits.
    """
    two_stars = _alternates(fits, STAR) >= 2
    star = _is(fits, STAR) | (_is(fits, QSO) & two_stars)
    quasar = _is(fits, QSO) & (fits.zwarning == 0) & ~two_stars
    return _leaves(fits, star, _galaxies(fits, 2), quasar)


def authors_script(fits: Fits) -> Verdict:
    """Return "auto+VI" as QuasarNET's authors coded it (``check_drq_scheme`` in their repository).

    As `dr14q` but in two places, both of which make it look better:

    4. Best fit QSO with ZWARNING = 0 and at least two alternates STAR: inspection, not STAR.
    5. ZWARNING > 0 and at least two alternates STAR: STAR whatever the best fit, if nothing above applies.

    Raises
    ------
    UsageError
        If there are not five fits.
    """
    two_stars, galaxy = _alternates(fits, STAR) >= 2, _galaxies(fits, 2)
    star = _is(fits, STAR) | ((fits.zwarning > 0) & two_stars & ~galaxy)
    quasar = _is(fits, QSO) & (fits.zwarning == 0) & ~two_stars
    return _leaves(fits, star, galaxy, quasar)


def dr16q(fits: Fits, is_qso_qn: Mask, z_qn: Floats) -> Verdict:
    """Return the decision tree of DR16Q: Lyke et al. (2020, ApJS 250, 8).

    1. Best fit STAR: STAR, at redshift 0.
    2. Best fit GALAXY with z < 1: GALAXY.
    3. Best fit GALAXY with z >= 1 and at least one alternate GALAXY: GALAXY.
    4. Best fit QSO and at least two alternates STAR: STAR, whatever ZWARNING.
    5. Best fit QSO, fewer than two alternates STAR and ZWARNING = 0: QSO, but inspection if z > 3.5.
    6. Else inspection, but QSO if QuasarNET calls it one at z < 2.

    Parameters
    ----------
    fits : Fits
    is_qso_qn : ndarray of bool, shape (n,)
        QuasarNET's verdict.
    z_qn : ndarray of float64, shape (n,)
        QuasarNET's redshift, which quasars of step 6 keep: the paper does not name theirs.

    Raises
    ------
    UsageError
        If there are not five fits.
    """
    two_stars = _alternates(fits, STAR) >= 2
    star = _is(fits, STAR) | (_is(fits, QSO) & two_stars)
    quasar = _is(fits, QSO) & (fits.zwarning == 0) & ~two_stars & ~(fits.z[:, 0] > _HIGH_Z)
    tree = _leaves(fits, star, _galaxies(fits, 1), quasar)
    assert tree.inspected is not None
    spared = tree.inspected & is_qso_qn & (z_qn < _QN_Z)
    return Verdict(quasar | spared, np.where(spared, z_qn, tree.z), fits.known, tree.inspected & ~spared)


def _is(fits: Fits, kind: int) -> Mask:
    best: Mask = fits.kind[:, 0] == kind
    return best


def _alternates(fits: Fits, kind: int) -> Ints:
    """Return how many of fits 2 to 5 are of a class."""
    if fits.kind.shape[1] < N_FITS:
        raise UsageError("these files hold the best fit alone: the decision trees need five, as in spZall")
    return np.asarray((fits.kind[:, 1:N_FITS] == kind).sum(axis=1))


def _galaxies(fits: Fits, alternates: int) -> Mask:
    z, sure = fits.z[:, 0], _alternates(fits, GALAXY) >= alternates
    galaxies: Mask = _is(fits, GALAXY) & ((z < _GALAXY_Z) | ((z >= _GALAXY_Z) & sure))
    return galaxies


def _leaves(fits: Fits, star: Mask, galaxy: Mask, quasar: Mask) -> Verdict:
    """Return the verdict of a tree: what is none of these is inspected."""
    inspected = fits.known & ~(star | galaxy | quasar)
    return Verdict(quasar, np.where(star, 0.0, fits.z[:, 0]), fits.known, inspected)


# ---- rules for a catalogue of confidences


def two_lines(sample: Sample, rule: Rule) -> Verdict:
    """Return the scheme of Busca & Balland (2018), section 5: two lines accepted, single lines inspected.

    A line is found above ``rule.c_th``. Spectra without any line are no quasars, as are those without result.

    Raises
    ------
    UsageError
        If the catalogue has no confidences.
    """
    accepted, found = sample.strength(2) > rule.c_th, sample.strength(1) > rule.c_th
    return Verdict(accepted, sample.z, np.ones(len(sample), dtype=bool), found & ~accepted)


def agreement(sample: Sample, other: Verdict) -> Verdict:
    """Return a catalogue with another classifier: what they agree on is accepted, the rest inspected.

    They agree if neither calls a quasar, or both do and ``|c (z - z_other) / (1 + z_other)| < 6000 km/s``,
    the limit of Busca & Balland (2018), section 4.1; the catalogue's redshift is kept. The annotation plays
    no part. A spectrum that the other one does not know is not called and not inspected.
    """
    both = sample.quasar & other.quasar
    near = np.abs(velocity(sample.z, other.z)) < CONFLICT_KMS
    inspected = other.known & (sample.quasar | other.quasar) & ~(both & near)
    return Verdict(other.known & both & near, sample.z, other.known, inspected)


# ---- baselines


def settle(sample: Sample, verdict: Verdict, more: Mapping[str, NDArray[Any]] | None = None) -> Baseline:
    """Return a verdict as a baseline: spectra that are inspected take the annotated class and redshift.

    As in Busca & Balland (2018), section 4.1: "We assign to all spectra requiring visual inspection the
    annotated class and redshift." So the expert is always right, of annotations that are not firm as well
    (these are not scored).

    Parameters
    ----------
    sample : Sample
        Of the study.
    verdict : Verdict
        On the same rows.
    more : mapping of str to ndarray, optional
        The classifier's confidences, probabilities and errors, by the names of `Sample`.
    """
    called, z, share = verdict.quasar & verdict.known, verdict.z, None
    if verdict.inspected is not None:
        called = np.where(verdict.inspected, sample.truth == "QSO", called)
        z = np.where(verdict.inspected, sample.z_truth, z)
        share = Share.of(verdict.inspected, verdict.known)
    said: dict[str, Any] = {**dict.fromkeys(_MORE), **(more or {})}
    n_unknown = int((~verdict.known).sum())
    return Baseline(replace(sample, z=z, called=called, **said), share, n_unknown)


def read_baseline(path: Path, ids: Mapping[str, NDArray[Any]], sample: Sample) -> dict[str, Baseline]:
    """Return what other classifiers say of the spectra of a study, by name.

    Parameters
    ----------
    path : Path
        Files as `broadline.evaluation.fits_read.read_answers` takes them.
    ids : mapping of str to ndarray, each of shape (n,)
        PLATE, MJD and FIBERID, or OBSID, or TARGETID, of the rows of the sample.
    sample : Sample
        Of the study. Its verdicts stand for those of QuasarNET in "DR16Q" and "catalogue & auto+VI".

    Returns
    -------
    dict of str to Baseline
        Of fits "auto" and, where there are five a spectrum, "auto+VI" (`dr14q`), "auto+VI, authors' script"
        and "DR16Q"; then "catalogue & auto+VI" (`agreement`). Of a catalogue the one under the file's name.

    Raises
    ------
    UsageError, ReadError
        As `read_answers`.
    """
    answers = read_answers(path, ids)
    if isinstance(answers, Calls):
        verdict = Verdict(answers.quasar, answers.z, answers.known)
        return {_stem(path): settle(sample, verdict, answers.more)}
    verdicts = {"auto": auto(answers)}
    if answers.kind.shape[1] == N_FITS:
        verdicts |= {
            "auto+VI": dr14q(answers),
            "auto+VI, authors' script": authors_script(answers),
            "DR16Q": dr16q(answers, sample.quasar, sample.z),
        }
    verdicts["catalogue & auto+VI"] = agreement(sample, verdicts["auto"])
    return {name: settle(sample, verdict) for name, verdict in verdicts.items()}


def read_baselines(
    paths: Iterable[Path], study: Study, on_file: Callable[[Path], None] = lambda path: None
) -> dict[str, Baseline]:
    """Return all that a study can be compared with, by name; the second of a name is numbered.

    Parameters
    ----------
    paths : iterable of Path
        What `read_baseline` reads.
    study : Study
        Where it has confidences, the scheme of `two_lines` is added.
    on_file : callable, optional
        Told of each file before it is read.
    """
    found: dict[str, Baseline] = {}
    for path in paths:
        on_file(path)
        for name, each in read_baseline(path, study.ids, study.sample).items():
            text = name.encode("utf-8", "backslashreplace").decode()  # files may have names that are no text
            numbered = (f"{text} ({number})" for number in count(2))
            found[next(free for free in chain([text], numbered) if free not in found)] = each
    if study.sample.c is not None:
        found["two lines, one line inspected"] = settle(study.sample, two_lines(study.sample, study.rule))
    return found


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]
