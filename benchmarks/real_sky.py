"""Purity, completeness and redshifts on real spectra, beside QuasarNP's own code on the same arrays.

    python benchmarks/real_sky.py DATA --model MODEL [--quasarnp CHECKOUT --weights WEIGHTS.h5]
                                  [-o docs/results.md]

DATA holds ``real/manifest.csv``, ``real/desi_targets.csv`` and the files they name. Nothing is trained or
tuned here. QuasarNP (and fitsio, which it imports) is run from a checkout outside this repository.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import beta

import broadline
from broadline.decision import CONFLICT_KMS, SPEED_OF_LIGHT, velocity
from broadline.flags import UNCLASSIFIED, Flag
from broadline.model import Model
from broadline.named_models import load_model
from broadline.pipeline import ModelChoice, classify, provenance
from broadline.spectra import Spectra
from markers import write_between

NOTHING = "—"
C_TH = 0.4  # QuasarNP has no decision rule of its own: the paper's, section 4.1, which is broadline's default
SAME_PLACE_ARCSEC = 2.0
REPEATED = "SDSS-RM repeat epoch"  # in the manifest's notes

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


# ---- what is known of each spectrum


@dataclass(frozen=True)
class Labels:
    """What the manifest says of each spectrum; every attribute is an array of shape (n_spectra,).

    Attributes
    ----------
    use, survey, format, kind : ndarray of str
        `kind` is truth_class: QSO, STAR, GALAXY, SKY, or anything else.
    z : ndarray of float
        Annotated redshift, NaN if unknown.
    bal, quality : ndarray of int
        1 and 0 for BAL and not BAL, -1 for unknown; truth_quality, 0 if there is no truth.
    mjd, ra, dec : ndarray of float
    repeated : ndarray of bool
        The 78 epochs of one quasar.
    exposure : ndarray of str
        What a file's name says before its last number: for LAMOST night, plan and spectrograph.
    """

    use: NDArray[np.str_]
    survey: NDArray[np.str_]
    format: NDArray[np.str_]
    kind: NDArray[np.str_]
    z: Floats
    bal: NDArray[np.int64]
    quality: NDArray[np.int64]
    plate: NDArray[np.int64]
    mjd: Floats
    ra: Floats
    dec: Floats
    repeated: Mask
    exposure: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.z)

    @property
    def scored(self) -> Mask:
        """Rows that may be scored: use=test and a truth of quality 1 or better."""
        return np.asarray((self.use == "test") & (self.quality >= 1))


Key = tuple[str, int]


def read_labels(data: Path, keys: Sequence[Key]) -> Labels:
    """Return the labels of the spectra ``(path relative to data, row)``, in their order.

    Rows of multi-object DESI files have theirs in desi_targets.csv: SPECTYPE from a curated quasar catalogue,
    or none; such a label counts as truth_quality 2.
    """
    files = {entry["path"]: entry for entry in _csv(data / "real" / "manifest.csv")}
    targets = {(row["path"], int(row["row"])): row for row in _csv(data / "real" / "desi_targets.csv")}
    entries = []
    for path, row in keys:
        entry = dict(files[path])
        if target := targets.get((path, row)):
            quality = "2" if target["spectype"] and target["z"] else "0"
            entry |= {"truth_class": target["spectype"], "truth_z": target["z"], "truth_quality": quality}
            entry |= {"ra": target["ra"], "dec": target["dec"]}
        entries.append(entry)

    def text(name: str) -> NDArray[np.str_]:
        return np.array([entry[name] for entry in entries])

    def real(name: str) -> Floats:
        return np.array([_number(entry[name]) for entry in entries])

    def whole(name: str, missing: int) -> NDArray[np.int64]:
        return np.nan_to_num(real(name), nan=missing).astype(np.int64)

    return Labels(
        use=text("use"),
        survey=text("survey"),
        format=text("format"),
        kind=text("truth_class"),
        z=real("truth_z"),
        bal=whole("truth_bal", -1),
        quality=whole("truth_quality", 0),
        plate=whole("plate", -1),
        mjd=real("mjd"),
        ra=real("ra"),
        dec=real("dec"),
        repeated=np.array([REPEATED in entry["notes"] for entry in entries]),
        exposure=np.array([Path(path).name.rpartition("-")[0] for path, _ in keys]),
    )


def _csv(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="") as stream:
        yield from csv.DictReader(stream)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # empty, or several values in one cell
        return float("nan")


def one_epoch(labels: Labels, rows: Mask) -> Mask:
    """Return `rows` with only the earliest spectrum of each place on the sky."""
    chosen = np.flatnonzero(rows & np.isfinite(labels.ra) & np.isfinite(labels.dec))
    chosen = chosen[np.argsort(labels.mjd[chosen], kind="stable")]
    ra, dec = np.radians(labels.ra[chosen]), np.radians(labels.dec[chosen])
    place = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    near = cKDTree(place).query_ball_point(place, np.radians(SAME_PLACE_ARCSEC / 3600))
    kept = rows & ~(np.isfinite(labels.ra) & np.isfinite(labels.dec))
    kept[chosen[[min(group) == i for i, group in enumerate(near)]]] = True
    return kept


# ---- what the codes say of each spectrum


@dataclass(frozen=True)
class Verdicts:
    """What one code says of each spectrum; arrays of shape (n_spectra,), lines (n_spectra, n_lines).

    Attributes
    ----------
    name : str
    classified, is_qso, is_bal : ndarray of bool
    z, z_err : ndarray of float
        Redshift and its error; NaN where not classified, or not told.
    c, z_line : ndarray of float
        Each line's confidence and redshift, in the model's order.
    flags : ndarray of int
    """

    name: str
    classified: Mask
    is_qso: Mask
    is_bal: Mask
    z: Floats
    z_err: Floats
    c: Floats
    z_line: Floats
    flags: NDArray[np.int64]


def run_broadline(data: Path, choice: ModelChoice, name: str) -> tuple[list[Key], Verdicts]:
    """Return what ``broadline classify DATA/real`` says, file to catalogue, and which spectra those are."""
    with tempfile.TemporaryDirectory() as folder:
        catalogue = Path(folder) / "catalogue.parquet"
        classify([data / "real"], catalogue, choice, workers=1)
        table = pq.read_table(catalogue)
    rows = table.to_pydict()
    keys = [
        (Path(source).relative_to(data).as_posix(), 0 if row is None else row)
        for source, row in zip(rows["SOURCE"], rows["ROW"], strict=True)
    ]
    lines = [column[2:] for column in table.column_names if column.startswith("C_")]
    flags = np.array(rows["FLAGS"], dtype=np.int64)

    def real(names: Iterable[str]) -> Floats:
        return np.stack([np.array(rows[name], dtype=float) for name in names], axis=1)

    verdicts = Verdicts(
        name=name,
        classified=(flags & UNCLASSIFIED) == 0,
        is_qso=np.array([cell is True for cell in rows["IS_QSO"]]),  # None where not classified
        is_bal=np.array([cell is True for cell in rows["IS_BAL"]]),
        z=real(["Z"])[:, 0],
        z_err=real(["Z_ERR"])[:, 0],
        c=real(f"C_{line}" for line in lines),
        z_line=real(f"Z_{line}" for line in lines),
        flags=flags,
    )
    return keys, verdicts


@dataclass(frozen=True)
class Peer:
    """QuasarNP's functions and a network of its own, imported from a checkout."""

    network: Any
    grid: Floats
    utils: Any

    EMISSION = ("LYA", "CIV(1548)", "CIII(1909)", "MgII(2796)", "Hbeta", "Halpha")
    ABSORPTION = ("CIV(1548)",)

    @classmethod
    def load(cls, checkout: Path, weights: Path) -> Peer:
        """Return QuasarNP with these weights."""
        sys.path.insert(0, str(checkout.resolve()))
        from quasarnp import utils
        from quasarnp.io import load_model as load

        network, grid = load(str(weights))
        return cls(network, grid, utils)

    def __call__(self, spectra: Spectra) -> tuple[Mask, Floats, Floats, Floats]:
        """Return which spectra it keeps, and of those c and z of each line (absorption last) and its z.

        The steps are those of its own loader, ``load_desi_coadd``, on arrays instead of a file.
        """
        flux, ivar = self.utils.rebin(spectra.flux, spectra.ivar, spectra.wavelength, out_grid=self.grid)
        has_data = ivar != 0
        flux[has_data] /= ivar[has_data]
        kept = ivar.sum(axis=1) != 0
        if not kept.any():
            none = np.empty((0, len(self.EMISSION) + len(self.ABSORPTION)))
            return kept, none, none, np.empty(0)
        values = self.utils.renormalize(flux[kept], ivar[kept])
        output = self.network.predict(values[:, :, None])
        c, z, z_best, c_bal, z_bal = self.utils.process_preds(
            output, self.EMISSION, self.ABSORPTION, verbose=False, wave=self.grid
        )
        return kept, np.vstack([c, c_bal]).T, np.vstack([z, z_bal]).T, z_best


def run_peer(peer: Peer, batches: Sequence[Spectra]) -> Verdicts:
    """Return what QuasarNP says of some batches, with the paper's decision rule."""
    parts = []
    for spectra in batches:
        kept, c_kept, z_kept, best = peer(spectra)
        c, z_line = np.full((2, len(spectra), c_kept.shape[1]), np.nan)
        z = np.full(len(spectra), np.nan)
        c[kept], z_line[kept], z[kept] = c_kept, z_kept, best
        parts.append((kept, c, z_line, z))
    kept, c, z_line, z = (np.concatenate(part) for part in zip(*parts, strict=True))
    n_emission = len(Peer.EMISSION)
    with np.errstate(invalid="ignore"):
        is_qso: Mask = np.any(c[:, :n_emission] > C_TH, axis=1)
        is_bal: Mask = is_qso & np.any(c[:, n_emission:] > C_TH, axis=1)
    untold = np.full(len(z), np.nan)
    return Verdicts("QuasarNP", kept, is_qso, is_bal, z, untold, c, z_line, np.zeros(len(z), dtype=np.int64))


# ---- section 4.1 of Busca & Balland (2018)


@dataclass(frozen=True)
class Score:
    """Counts and redshift scatter of section 4.1 of Busca & Balland (2018) on some spectra.

    Attributes
    ----------
    n_qso : int
        Spectra annotated QSO.
    n_called : int
        Spectra called quasar, whatever they are.
    right_qso, right_galaxy : int
        Those called quasar with ``|dv| < 6000 km/s`` that are annotated QSO, GALAXY.
    found : int
        Spectra annotated QSO and called quasar, whatever the redshift.
    dv : ndarray of float
        Velocity differences (km/s) of the `right_qso`.
    """

    n_qso: int
    n_called: int
    right_qso: int
    right_galaxy: int
    found: int
    dv: Floats

    @classmethod
    def of(cls, labels: Labels, verdicts: Verdicts, rows: Mask) -> Score:
        """Return the score of one code on the spectra in `rows`."""
        called, qso = rows & verdicts.is_qso, labels.kind == "QSO"
        right = called & is_right(labels, verdicts)
        return cls(
            n_qso=int((rows & qso).sum()),
            n_called=int(called.sum()),
            right_qso=int((right & qso).sum()),
            right_galaxy=int((right & (labels.kind == "GALAXY")).sum()),
            found=int((called & qso).sum()),
            dv=velocity(verdicts.z, labels.z)[right & qso],
        )

    @property
    def purity(self) -> str:
        """Right of those called quasar; galaxies with the right redshift count as right."""
        return share(self.right_qso + self.right_galaxy, self.n_called)

    @property
    def completeness(self) -> str:
        """Right of those annotated QSO."""
        return share(self.right_qso, self.n_qso)

    @property
    def catastrophic(self) -> str:
        """Wrong in redshift of those annotated QSO and called quasar."""
        return share(self.found - self.right_qso, self.found)


def is_right(labels: Labels, verdicts: Verdicts) -> Mask:
    """Return which redshifts are within 6000 km/s of that of a QSO or GALAXY (stars have none)."""
    with np.errstate(invalid="ignore"):
        near = np.abs(velocity(verdicts.z, labels.z)) < CONFLICT_KMS
    return near & np.isin(labels.kind, ("QSO", "GALAXY"))


def interval(k: int, n: int) -> tuple[float, float]:
    """Return the Jeffreys 95 % interval of a fraction seen k times in n."""
    low = 0.0 if k == 0 else float(beta.ppf(0.025, k + 0.5, n - k + 0.5))
    high = 1.0 if k == n else float(beta.ppf(0.975, k + 0.5, n - k + 0.5))
    return low, high


def share(k: int, n: int) -> str:
    """Return "k/n = per cent [95 % interval]", or a dash when there is nothing to divide by."""
    if n == 0:
        return NOTHING
    low, high = interval(k, n)
    return f"{k}/{n} = {100 * k / n:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def deviation(dv: Floats) -> float:
    """Return the standard deviation about the mean."""
    return float(dv.std(ddof=1))


def scatter(dv: Floats) -> float:
    """Return the normalised median absolute deviation."""
    return float(1.4826 * np.median(np.abs(dv - np.median(dv))))


def kms(statistic: Callable[[Floats], float], dv: Floats, least: int = 1) -> str:
    """Return a statistic of velocities, or a dash when there are fewer than it needs."""
    return f"{statistic(dv):.0f}" if len(dv) >= least else NOTHING


def moments(dv: Floats) -> list[str]:
    """Return mean, standard deviation and NMAD of velocities."""
    return [kms(np.mean, dv), kms(deviation, dv, 2), kms(scatter, dv, 2)]


# ---- tables


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def sets(labels: Labels) -> dict[str, Mask]:
    """Return the sets of spectra on which purity and completeness are measured."""
    scored, boss = labels.scored, np.isin(labels.survey, ("boss", "eboss"))
    return {
        "visual plate 7102": scored & (labels.plate == 7102) & (labels.quality == 3),
        "BOSS + eBOSS": scored & boss,
        "BOSS + eBOSS, one epoch an object": one_epoch(labels, scored & boss),
        "BOSS + eBOSS + SDSS": scored & (boss | (labels.survey == "sdss")),
        "DESI": scored & (labels.survey == "desi"),
    }


def files_table(labels: Labels, keys: Sequence[Key], verdicts: Verdicts) -> str:
    """Return table 1: what became of every file and spectrum, by format."""
    paths = np.array([path for path, _ in keys])
    rows = []
    for name in [*sorted(set(labels.format)), "all"]:
        here = (labels.format == name) | (name == "all")
        flags = verdicts.flags[here]
        bits = [f"{flag.name} {n}" for flag in Flag if (n := int(((flags & flag) != 0).sum()))]
        unreadable = int(((flags & Flag.UNREADABLE) != 0).sum())
        n = int(here.sum())
        rows.append(
            [
                name,
                len(set(paths[here])),
                n,
                n - unreadable,
                unreadable,
                int(verdicts.classified[here].sum()),
                int((flags != 0).sum()),
                ", ".join(bits) or NOTHING,
            ]
        )
    counts = ("files", "spectra", "read", "unreadable", "classified", "flagged")
    return table(("format", *counts, "spectra with each bit of FLAGS"), rows)


def classes_table(labels: Labels, verdicts: Verdicts) -> str:
    """Return table 2a: quasars, stars and galaxies of each survey."""
    right = is_right(labels, verdicts) & verdicts.is_qso
    rows = []
    for survey in ("boss", "eboss", "sdss", "lamost", "desi"):
        for kind in ("QSO", "STAR", "GALAXY"):
            here = labels.scored & (labels.survey == survey) & (labels.kind == kind)
            n, called = int(here.sum()), int((here & verdicts.is_qso).sum())
            good = NOTHING if kind == "STAR" else int((here & right).sum())
            rows.append([survey, kind, n, called, good] if n else [survey, kind, 0, NOTHING, NOTHING])
    return table(("survey", "annotated", "n", "called quasar", "of these, right redshift"), rows)


def scores_table(labels: Labels, verdicts: Verdicts) -> str:
    """Return table 2b: purity, completeness and redshift scatter."""
    rows = []
    for name, here in sets(labels).items():
        score = Score.of(labels, verdicts, here)
        rows.append([name, score.purity, score.completeness, score.catastrophic, *moments(score.dv)])
    header = ("set", "purity", "completeness", "catastrophic", "mean dv", "std dv", "NMAD dv")
    return table(header, rows)


def bal_counts(labels: Labels, verdicts: Verdicts) -> tuple[str, str]:
    """Return the shares of BAL quasars called BAL and of other quasars not called BAL."""
    quasars = labels.scored & (labels.kind == "QSO")
    bal, other = quasars & (labels.bal == 1), quasars & (labels.bal == 0)
    return (
        share(int((bal & verdicts.is_bal).sum()), int(bal.sum())),
        share(int((other & ~verdicts.is_bal).sum()), int(other.sum())),
    )


def called(labels: Labels, verdicts: Verdicts, rows: Mask) -> str:
    """Return the share of some classified spectra that is called quasar."""
    rows = rows & verdicts.classified
    return share(int((rows & verdicts.is_qso).sum()), int(rows.sum()))


def nulls(labels: Labels) -> dict[str, Mask]:
    """Return the sets of spectra in which there is no quasar to be found."""
    stars, lamost = labels.kind == "STAR", labels.survey == "lamost"
    tested = labels.scored & stars & lamost
    names, counts = np.unique(labels.exposure[tested], return_counts=True)
    most = names[counts.argmax()] if len(names) else ""
    return {
        "sky fibres (use=instrument)": labels.kind == "SKY",
        "LAMOST stars (use=test)": tested,
        f"... of the spectrograph that has most of them, {most}": tested & (labels.exposure == most),
        "... of all others": tested & (labels.exposure != most),
        "LAMOST stars (use=instrument)": stars & lamost & (labels.use == "instrument"),
        "bright standard stars of SDSS, BOSS, eBOSS (use=instrument)": (
            stars & ~lamost & (labels.use == "instrument")
        ),
    }


def epochs_table(labels: Labels, verdicts: Sequence[Verdicts]) -> str:
    """Return table 4: one quasar, 78 times."""
    rows = []
    for code in verdicts:
        choices = {"all": labels.repeated}
        if code.flags.any():
            choices["without any with a bit of FLAGS"] = labels.repeated & (code.flags == 0)
        for name, here in choices.items():
            found = here & code.is_qso
            right = found & is_right(labels, code)
            z = code.z[found]
            centre = np.median(z) if len(z) else np.nan
            own = SPEED_OF_LIGHT * (z - centre) / (1 + centre)
            offset = velocity(code.z, labels.z)[found]
            cells = [kms(deviation, own, 2), kms(scatter, own, 2), kms(np.mean, offset)]
            rows.append([code.name, name, share(int(right.sum()), int(here.sum())), *cells])
    header = ("code", "epochs", "right of all", "std of Z (km/s)", "NMAD of Z (km/s)", "mean dv (km/s)")
    return table(header, rows)


def side_by_side_table(labels: Labels, codes: Sequence[Verdicts]) -> str:
    """Return table 5a: every code on the same spectra."""
    rows: list[list[str]] = []
    for name, here in sets(labels).items():
        scores = [Score.of(labels, code, here) for code in codes]
        rows.append([f"{name}: purity", *(score.purity for score in scores)])
        rows.append([f"{name}: completeness", *(score.completeness for score in scores)])
        spread = (moments(score.dv) for score in scores)
        rows.append([f"{name}: std / NMAD dv (km/s)", *(f"{std} / {nmad}" for _, std, nmad in spread)])
    for i, name in enumerate(("BAL found", "non-BAL rejected")):
        rows.append([name, *(bal_counts(labels, code)[i] for code in codes)])
    return table(("", *(code.name for code in codes)), rows)


def agreement_table(ours: Verdicts, peer: Verdicts, grid: Floats, rest: Floats) -> str:
    """Return table 5b: how far broadline, as published, is from QuasarNP.

    Parameters
    ----------
    ours, peer : Verdicts
    grid : ndarray
        QuasarNP's wavelengths (Angstrom): its np.interp holds line positions within the first and the last.
    rest : ndarray
        The lines' rest wavelengths (Angstrom).
    """
    both = ours.classified & peer.classified
    lines = np.broadcast_to(both[:, None], ours.c.shape)
    observed = (1 + ours.z_line) * rest
    red, blue = lines & (observed > grid[-1]), lines & (observed < grid[0])
    outside = red | blue
    best = [np.argmax(np.nan_to_num(code.c[:, : len(Peer.EMISSION)]), axis=1) for code in (ours, peer)]
    best_outside = outside[np.arange(len(both)), best[0]]
    line_dv = np.abs(velocity(peer.z_line, ours.z_line))
    best_dv = np.abs(velocity(peer.z, ours.z))

    def most(values: Floats, where: Mask, digits: str) -> str:
        return format(float(values[where].max()), digits) if where.any() else NOTHING

    rows: list[list[object]] = [
        ["spectra that both classify", int(both.sum())],
        ["only broadline classifies", int((ours.classified & ~peer.classified).sum())],
        ["only QuasarNP classifies", int((peer.classified & ~ours.classified).sum())],
        ["neither (no data)", int((~peer.classified & ~ours.classified).sum())],
        ["largest difference in confidence, all lines", most(np.abs(ours.c - peer.c), lines, ".1e")],
        ["spectra that one calls quasar, the other not", _differ(ours, peer, both, "is_qso")],
        ["spectra that one calls BAL, the other not", _differ(ours, peer, both, "is_bal")],
        ["spectra with another most confident line", int((best[0] != best[1])[both].sum())],
        ["largest dv of Z (km/s)", most(best_dv, both, ".2f")],
        ["spectra whose Z comes from a line outside QuasarNP's pixels", int(best_outside.sum())],
        ["lines, of any confidence, beyond the last pixel", int(red.sum())],
        ["lines, of any confidence, before the first pixel", int(blue.sum())],
        ["... their highest confidence", most(ours.c, outside, ".2f")],
        ["... their largest dv (km/s)", most(line_dv, outside, ".0f")],
        ["largest dv of all other lines, of any confidence (km/s)", most(line_dv, lines & ~outside, ".2f")],
    ]
    return table(("broadline, empty bins as published, against QuasarNP", ""), rows)


def _differ(one: Verdicts, other: Verdicts, rows: Mask, name: str) -> int:
    return int((getattr(one, name) != getattr(other, name))[rows].sum())


def times_table(model: Model, peer: Peer | None, batches: Sequence[Spectra]) -> str:
    """Return table 5c: the wall time of a pass over all spectra, in memory: best of three after a warm-up."""
    n = sum(len(batch) for batch in batches)
    ours = "broadline: represent, run, decode, decide, fill rows"
    codes: dict[str, Callable[[], object]] = {ours: lambda: [model.classify_batch(x) for x in batches]}
    if peer:
        codes["QuasarNP: rebin, renormalise, run, decode"] = lambda: run_peer(peer, batches)
    rows = []
    for name, run in codes.items():
        run()
        seconds = min(timeit.repeat(run, number=1, repeat=3))
        rows.append([name, f"{1e3 * seconds / n:.2f}"])
    return table(("code", "ms a spectrum, roughly"), rows)


# ---- the report


def report(data: Path, options: argparse.Namespace) -> str:
    """Return all tables with the sentences that belong to them, as Markdown."""
    choice = ModelChoice(str(options.model))
    say("classifying (empty bins as published)")
    keys, published = run_broadline(data, replace(choice, empty="as-published"), "broadline as published")
    say("classifying (empty bins 0)")
    _, zero = run_broadline(data, replace(choice, empty="zero"), "broadline, empty bins 0")
    labels = read_labels(data, keys)
    model = load_model(options.model)
    model.fill_empty_bins("as-published")
    codes, extra, peer, batches = [published, zero], "", None, list(broadline.read(data / "real"))
    if options.quasarnp:
        say("running QuasarNP")
        peer = Peer.load(options.quasarnp, options.weights or options.model)
        verdicts = run_peer(peer, batches)
        codes.append(verdicts)
        rest = np.array([line.wavelength for line in model.lines])
        extra = agreement_table(published, verdicts, peer.grid, rest)
    say("timing")
    times = times_table(model, peer, batches)
    found, rejected = bal_counts(labels, published)
    null_rows = [[name, *(called(labels, x, here) for x in codes)] for name, here in nulls(labels).items()]
    return TEXT.format(
        head=heading(model, options),
        files=files_table(labels, keys, published),
        classes=classes_table(labels, published),
        scores=scores_table(labels, published),
        n_boss=int((labels.repeated & sets(labels)["BOSS + eBOSS"]).sum()),
        n_one=int(sets(labels)["BOSS + eBOSS, one epoch an object"].sum()),
        stars=called(labels, published, sets(labels)["BOSS + eBOSS"] & (labels.kind == "STAR")),
        found=found,
        rejected=rejected,
        nulls=table(("spectra called quasar", *(code.name for code in codes)), null_rows),
        epochs=epochs_table(labels, codes),
        n_epochs=int(labels.repeated.sum()),
        side=side_by_side_table(labels, codes),
        agreement=extra or "QuasarNP was not run.",
        times=times,
    )


def heading(model: Model, options: argparse.Namespace) -> str:
    """Return what made the tables: model, command, version and date; file names only, no folders."""
    facts = provenance(model)
    card = model.recipe.card
    weights = ""
    if "file_sha256" in card:
        weights = f", made from `{card['file']}` with SHA-256 `{card['file_sha256']}`"
    filters = sorted({convolution.filters for convolution in model.recipe.network.convolutions})
    command = f"python benchmarks/real_sky.py DATA --model {options.model.name}"
    if options.quasarnp:
        command += f" --quasarnp {options.quasarnp.name} --weights {(options.weights or options.model).name}"
    command += f" -o docs/{options.output.name}" if options.output else ""
    interim = INTERIM if card.get("origin", "").startswith("imported from Keras") else ""
    return "\n".join(
        [
            f"Model: `{facts['model']}` (SHA-256 of the model `{facts['model_sha256']}`{weights}; "
            f"convolutions of {', '.join(map(str, filters))} filters). {interim}".rstrip(),
            "",
            f"Decision: {facts['rule']}. broadline {facts['version']}, {facts['date'][:10]}.",
            "",
            f"    {command}",
        ]
    )


INTERIM = (
    "**Interim**: the published slim network, trained by others on real BOSS spectra, perhaps some of these, "
    "so that its scores on BOSS and eBOSS may flatter it. Its own file does not say what it was trained on."
)

TEXT = """{head}

A share is followed by its Jeffreys 95 % interval. dv = c (z - z_annotated) / (1 + z_annotated); a redshift
is right if |dv| < 6000 km/s. A dash stands where there is nothing to compute from. Only rows with use=test
and truth_quality >= 1 are scored; sky fibres and other rows with use=instrument have lines of their own.

### 1. Every file under DATA/real

What became of each file and spectrum. A flagged spectrum may still be classified: not so those with no
data, no coverage, bad wavelengths or a constant flux. The bits of FLAGS are described in
[catalogue.md](catalogue.md).

{files}

### 2. Quasars, stars and galaxies

Broadline, empty bins as published. A star has no right redshift.

{classes}

Purity and completeness as in section 4.1 of Busca & Balland (2018): a GALAXY with the right redshift counts
as right in the purity and nowhere else. Catastrophic: annotated QSO, called quasar, wrong redshift. Mean,
standard deviation and NMAD (1.4826 median |dv - median dv|) in km/s, over quasars with the right redshift.

{scores}

Small numbers: these files were gathered because most are quasars, so that their mix of classes, and with it
the purity, is not that of a survey; of the stars of BOSS and eBOSS among them {stars} are called quasar. In
"BOSS + eBOSS" one quasar counts {n_boss} times; "one epoch an object" keeps the earliest spectrum of each
place on the sky ({n_one} spectra). The intervals take spectra as independent and labels as right; quality 1
labels are those of the pipeline. DESI's truth is a published redshift, and the class that most of these
objects had when SDSS observed them years before.

Broad absorption, of quasars annotated as BAL or not: BAL found {found}; others rejected {rejected}.

### 3. Where there is no quasar

Shares of classified spectra called quasar. In the catalogue each of the sky fibres has SKY_FIBRE in FLAGS.
Spectra of one LAMOST spectrograph share their calibration, so that they fail together: the interval of all
is too narrow.

{nulls}

### 4. One quasar, {n_epochs} times (SDSS-RM RM017, z = 0.456)

Scatter of Z over the epochs, about its median; dv against the redshift that the manifest gives each epoch.
It is one object: the scatter is that of noise, calibration and the quasar's own variations, and says
nothing of others. QuasarNP has no flags.

{epochs}

### 5. Side by side

The same spectra and weights, from the same arrays of flux, inverse variance and wavelength. QuasarNP's own
functions rebin, renormalise, run and decode; spectra without weight are dropped as its loader drops them;
the decision rule is the paper's for all. Stars and sky fibres are in section 3.

{side}

Spectrum by spectrum:

{agreement}

QuasarNP turns a position on its grid into a wavelength with `np.interp`, which stays at the left edge of
the last pixel (9961 Angstrom) for a line within that pixel or beyond, and at 3600 Angstrom for a line
before the first. broadline decodes such positions like all others. What remains everywhere else is the
difference between a straight line and a logarithm within one pixel.

Rough wall times of a pass over these spectra in memory, best of three after a warm-up, reading left out, on
a machine that did other work too; not the project's measurement of speed:

{times}
"""


_STARTED = time.perf_counter()


def say(text: str) -> None:
    """Report progress."""
    print(f"[{time.perf_counter() - _STARTED:5.1f} s] {text}", file=sys.stderr)


def main() -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--model", type=Path, required=True, help="a model's name or file")
    parser.add_argument("--quasarnp", type=Path, metavar="CHECKOUT", help="of github.com/desihub/QuasarNP")
    parser.add_argument("--weights", type=Path, help="Keras weights for QuasarNP [those of --model]")
    parser.add_argument("-o", "--output", type=Path, help="Markdown file whose marked part is replaced")
    options = parser.parse_args()
    for needed in ("manifest.csv", "desi_targets.csv"):
        if not (options.data / "real" / needed).is_file():
            parser.error(f"DATA/real/{needed} is not there; DATA is the folder that holds real/")
    body = report(options.data, options)
    print(body)
    if options.output:
        write_between(options.output, "real_sky.py", body)


if __name__ == "__main__":
    main()
