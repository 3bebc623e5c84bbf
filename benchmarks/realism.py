"""Is the simulation real? A page of spectra, distributions, a critic and a two-sample test.

    python benchmarks/realism.py DATA --model MODEL [--templates DIR] [-o docs/simulation.md] [--figures DIR]

DATA holds ``real/manifest.csv`` and the files it names. Every real spectrum gets simulated partners of its
instrument, class, redshift and signal-to-noise ratio. Files with use=test serve the page, the distributions
and the critic's comparison alone: nothing is fitted to them here. The two-sample test uses use=instrument.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

import broadline
from broadline.decision import CONFLICT_KMS, velocity
from broadline.grid import QUASARNET_LOG
from broadline.named_models import load_model
from broadline.representation import Representation
from broadline.resample import binned
from broadline.simulation.instruments import INSTRUMENTS
from broadline.simulation.recipe import RECIPES
from broadline.simulation.sources import draw_sources
from broadline.spectra import LATTICE_STEP, Spectra, identity
from markers import write_between
from real_sky import NOTHING, Labels, one_epoch, read_labels, share, table

Floats = NDArray[np.float64]
Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
CENTRES = QUASARNET_LOG.centres
C_LIGHT = 299_792.458
#: The instrument that saw the spectra of each survey of the manifest.
SEEN_BY = {"boss": "boss", "eboss": "boss", "sdss": "sdss", "lamost": "lamost"}
#: Spectrophotometric standards.
STANDARDS = {"F": 0.6, "sdF": 0.4}
#: Plates whose sky fibres served to build the simulator; the others are for scores alone.
OPEN_SKY = (1942, 1944, 1947, 1950, 2296)
#: Galaxies with an active nucleus: experts and networks differ on these, and no rate of them is compared.
AMBIGUOUS = ("BROADLINE", "AGN")
#: Rest-frame windows (Angstrom) of the measures below: line, and continuum on both sides.
WIDTHS = {
    "CIV": ((1500, 1600), (1440, 1480), (1680, 1720)),
    "CIII]": ((1830, 1976), (1780, 1820), (2000, 2040)),
    "MgII": ((2700, 2900), (2640, 2690), (2920, 2980)),
}


@dataclass(frozen=True)
class Sample:
    """Spectra on the pixels of one instrument, real or simulated, one row a spectrum."""

    name: str
    flux: Image
    ivar: Image
    kind: NDArray[np.str_]
    z: Floats

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, rows: NDArray[np.int64] | Mask) -> Sample:
        return Sample(self.name, *(x[rows] for x in (self.flux, self.ivar, self.kind, self.z)))

    @property
    def wavelength(self) -> Floats:
        """Pixel centres, vacuum Angstrom."""
        return INSTRUMENTS[self.name].wavelength

    @property
    def coarse(self) -> tuple[Image, Image]:
        """Flux and ivar on the network's 443 bins."""
        flux, ivar, _ = binned(self.flux, self.ivar, self.wavelength, QUASARNET_LOG)
        return flux.astype(np.float32), ivar.astype(np.float32)

    @property
    def spectra(self) -> Spectra:
        """The same, as the classifier takes it."""
        ids = identity("table", [""] * len(self))
        return Spectra(self.wavelength, self.flux, self.ivar, ids, np.zeros(len(self), np.uint32))

    @property
    def sn(self) -> Floats:
        """Median signal-to-noise ratio over pixels with data."""
        with np.errstate(invalid="ignore"):
            return np.nanmedian(np.where(self.ivar > 0, self.flux * np.sqrt(self.ivar), np.nan), axis=1)


def read_real(data: Path, use: str) -> dict[str, tuple[Sample, Labels]]:
    """Return the real spectra of each instrument on its pixels, with their labels."""
    every = sorted(
        (str(path.relative_to(data)), 0) for path in (data / "real").glob("*/*/*") if path.is_file()
    )
    named = {line.split(",", 1)[0] for line in (data / "real" / "manifest.csv").read_text().splitlines()}
    every = [key for key in every if key[0] in named and "/desi/" not in key[0]]
    labels = read_labels(data, every)
    out = {}
    for name in INSTRUMENTS:
        mine = (labels.use == use) & np.isin(labels.survey, [s for s, i in SEEN_BY.items() if i == name])
        mine &= ~np.char.endswith(labels.format, "nowave")
        if use == "test":
            mine = one_epoch(labels, mine & (labels.quality >= 1))
        rows = np.flatnonzero(mine)
        if len(rows):
            paths = [data / every[row][0] for row in rows]
            chosen = Labels(*(getattr(labels, field)[rows] for field in Labels.__dataclass_fields__))
            out[name] = (_placed(name, paths, chosen), chosen)
    return out


def _placed(name: str, paths: list[Path], labels: Labels) -> Sample:
    """Return real spectra placed on an instrument's lattice pixels."""
    wavelength = INSTRUMENTS[name].wavelength
    first = round(np.log10(wavelength[0]) / LATTICE_STEP)
    flux = np.zeros((len(paths), len(wavelength)), dtype=np.float32)
    ivar = np.zeros_like(flux)
    row = 0
    for spectra in broadline.read(paths):
        index = np.rint(np.log10(spectra.wavelength) / LATTICE_STEP).astype(int) - first
        inside = (index >= 0) & (index < len(wavelength))
        stop = row + len(spectra.flux)
        flux[row:stop, index[inside]] = spectra.flux[:, inside]
        ivar[row:stop, index[inside]] = spectra.ivar[:, inside]
        row = stop
    return Sample(name, flux, ivar, labels.kind, labels.z)


def partners(
    real: Sample, copies: int, templates: Path | None, seed: int = 0, stars: dict[str, float] | None = None
) -> Sample:
    """Return simulated spectra of the instrument, class, redshift and S/N of real ones, `copies` each."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(len(real)), copies)
    instrument = INSTRUMENTS[real.name]
    z = np.where(np.isin(real.kind[rows], ["QSO", "GALAXY"]), np.clip(real.z[rows], 0.011, 6.2), np.nan)
    z = np.where(real.kind[rows] == "GALAXY", np.clip(z, 0, 1.2), z)
    sn = np.clip(real.sn[rows], 0.05, None)
    flux, ivar, kind = [], [], []
    for part in np.array_split(np.arange(len(rows)), max(1, len(rows) // 1000)):
        recipe = replace(RECIPES["boss"], narrow_line=0.0, stars=stars or RECIPES[real.name].stars)
        sources = draw_sources(recipe, real.kind[rows[part]], instrument.window, rng, templates, z[part])
        seen = instrument.observe(sources.scene, sn[part], rng)
        scale = seen.scale[:, None]
        galaxy = real.kind[rows[part]] == "GALAXY"
        subclass = sources.scene.truth["SUBCLASS"]
        kind.append(np.where(galaxy & np.isin(subclass, AMBIGUOUS), "AGN", real.kind[rows[part]]))
        flux.append(seen.flux * scale)
        ivar.append(seen.ivar / scale**2)
    images = np.concatenate(flux), np.concatenate(ivar)
    return Sample(real.name, *images, np.concatenate(kind), real.z[rows])


# ---- a page to look at


def page(real: Sample, templates: Path | None, path: Path, seed: int = 5) -> str:
    """Draw 24 real spectra and a partner of each in random places; return which are simulated."""
    rng = np.random.default_rng(seed)
    quasars, others = np.flatnonzero(real.kind == "QSO"), np.flatnonzero(real.kind != "QSO")
    chosen = np.concatenate([rng.choice(quasars, 16, replace=False), rng.choice(others, 8, replace=False)])
    sample = real[chosen]
    both = (sample, partners(sample, 1, templates, seed))
    order = rng.permutation(48)
    figure, axes = plt.subplots(12, 4, figsize=(20, 27), sharex=True)
    for place, (axis, number) in enumerate(zip(axes.flat, order, strict=True)):
        one, row = both[number // 24], number % 24
        good = one.ivar[row] > 0
        level = np.median(np.abs(one.flux[row][good]))
        flux, ivar = one[np.array([row])].coarse
        shown = ivar[0] > 0
        axis.plot(one.wavelength[good], one.flux[row][good] / level, color="0.75", lw=0.4)
        axis.plot(CENTRES[shown], flux[0][shown] / level, color="C0", lw=0.9)
        low, high = np.percentile(flux[0][shown] / level, [1, 99])
        axis.set_ylim(min(low - 0.5 * (high - low), -0.2), high + 0.7 * (high - low))
        axis.set_title(f"{place + 1}: {one.kind[row]} z = {one.z[row]:.3f}", fontsize=9, pad=2)
        axis.tick_params(labelsize=7)
    for axis in axes[-1]:
        axis.set_xlabel("wavelength (Angstrom)")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)
    return ", ".join(str(place + 1) for place in range(48) if order[place] >= 24)


# ---- distributions


def slope(sample: Sample) -> Floats:
    """Return the exponent of a power law between the blue (4000-5000) and the red (7500-8500 Angstrom)."""
    flux, ivar = sample.coarse
    level = []
    for low, high in ((4000, 5000), (7500, 8500)):
        window = np.abs(CENTRES - 0.5 * (low + high)) < 0.5 * (high - low)
        level.append(np.median(np.where(ivar > 0, flux, np.nan)[:, window], axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.log(level[1] / level[0]) / np.log(8000 / 4500)


def width(sample: Sample, line: str) -> Floats:
    """Return rest-frame equivalent widths (Angstrom) over fixed windows; NaN out of range or without data."""
    flux, ivar = sample.coarse
    out = np.full(len(sample), np.nan)
    inside, blue, red = WIDTHS[line]
    for row in range(len(sample)):
        rest = CENTRES / (1 + sample.z[row])
        good = ivar[row] > 0
        part = [good & (rest > low) & (rest < high) for low, high in (inside, blue, red)]
        if all(p.sum() >= 4 for p in part):
            levels = [np.average(flux[row][p], weights=ivar[row][p]) for p in part[1:]]
            centres = [rest[p].mean() for p in part[1:]]
            continuum = np.interp(rest[part[0]], centres, levels)
            if (continuum > 0).all():
                excess = flux[row][part[0]] / continuum - 1
                out[row] = np.sum(excess * rest[part[0]]) * np.log(10) * 1e-3
    return out


def pulls(sample: Sample) -> Floats:
    """Return differences of bins two apart in units of their error: noise, where there is no line."""
    flux, ivar = sample.coarse
    step = flux[:, 2:] - flux[:, :-2]
    with np.errstate(divide="ignore"):
        error = np.sqrt(1 / ivar[:, 2:] + 1 / ivar[:, :-2])
    return np.where(np.isfinite(error), step / error, np.nan)


def spread(values: Floats) -> str:
    values = values[np.isfinite(values)]
    if len(values) < 5:
        return NOTHING
    return " / ".join(f"{q:.2f}" for q in np.percentile(values, [16, 50, 84]))


def distributions(real: Sample, made: Sample, path: Path) -> str:
    """Draw and return the distributions of real quasars and of their partners."""
    quasar, copy = real[real.kind == "QSO"], made[made.kind == "QSO"]
    measures = {
        "S/N a pixel": (quasar.sn, copy.sn, (0, 15)),
        "continuum slope": (slope(quasar), slope(copy), (-4, 2)),
        **{f"EW {k} (A)": (width(quasar, k), width(copy, k), (-20, 120)) for k in WIDTHS},
    }
    figure, axes = plt.subplots(2, 3, figsize=(13, 7))
    for axis, (name, (a, b, limits)) in zip(axes.flat, measures.items(), strict=False):
        edges = np.linspace(*limits, 25)
        for values, label, color in ((a, "real", "C1"), (b, "simulated", "C0")):
            kept = values[np.isfinite(values)]
            axis.hist(kept, edges, density=True, histtype="step", label=label, color=color, lw=1.5)
        axis.set_xlabel(name)
        axis.legend()
    axis = axes.flat[5]
    for sample, label, color in ((real, "real", "C1"), (made, "simulated", "C0")):
        sigma = 1 / np.sqrt(np.where(sample.ivar > 0, sample.ivar, np.nan))
        sigma /= np.nanmedian(sigma, axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            axis.plot(sample.wavelength, np.nanmedian(sigma, axis=0), color=color, lw=0.6, label=label)
    axis.set(xlabel="wavelength (Angstrom)", ylabel="median relative sigma", ylim=(0, 5))
    axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
    rows = [(name, spread(a), spread(b)) for name, (a, b, _) in measures.items()]
    rows.append(("pull of bin differences, standard deviation",))
    rows[-1] = (rows[-1][0], *(f"{np.nanstd(np.clip(pulls(s), -6, 6)):.3f}" for s in (real, made)))
    return table(("16 / 50 / 84 %", "real", "simulated"), rows)


def residuals(real: Sample, made: Sample) -> str:
    """Return chi2 and correlation of what is left of the sky in fibres that saw nothing else."""
    rows = []
    for text, sample in (("real", real), ("simulated", made)):
        flux, ivar = sample.coarse
        pull = np.where(ivar > 0, flux * np.sqrt(ivar), np.nan)
        pull -= np.nanmedian(pull, axis=1, keepdims=True)
        chi2 = np.nanmean(np.square(np.clip(pull, -8, 8)), axis=1)
        lags = [np.nanmean(pull[:, lag:] * pull[:, :-lag]) / np.nanmean(pull**2) for lag in (1, 5, 20)]
        rows.append((text, len(sample), spread(chi2), *(f"{lag:.3f}" for lag in lags)))
    header = ("SDSS sky fibres", "n", "chi2 a bin, 16 / 50 / 84 %", "correlation, lag 1", "lag 5", "lag 20")
    return table(header, rows)


# ---- the critic


def critic(samples: dict[str, tuple[Sample, Sample]], name: str) -> str:
    """Return how a published network fares on real spectra and on their partners."""
    model = load_model(name)
    model.fill_empty_bins("zero")
    bins = ((0, 0.8), (0.8, 1.5), (1.5, 2.2), (2.2, 3.0), (3.0, 7.0))
    rows = []
    for instrument, both in samples.items():
        verdicts = []
        for sample in both:
            found = model.classify_batch(sample.spectra)
            called, z = np.asarray(found["IS_QSO"]), np.asarray(found["Z"], dtype=float)
            near = np.abs(velocity(z, np.where(np.isnan(sample.z), 0, sample.z))) < CONFLICT_KMS
            quasar = sample.kind == "QSO"
            verdicts.append(np.where(quasar, called & near, called).astype(bool))
        for low, high in bins:
            part = [(s.kind == "QSO") & (s.z >= low) & (s.z < high) for s in both]
            rows.append((instrument, f"QSO found, {low} <= z < {high}", *_shares(verdicts, part)))
        for kind in ("STAR", "GALAXY"):
            rows.append(
                (instrument, f"{kind} called QSO", *_shares(verdicts, [s.kind == kind for s in both]))
            )
    return table(("instrument", "what", "real", "simulated"), rows)


def _shares(verdicts: list[Mask], part: list[Mask]) -> list[str]:
    return [
        share(int(v[p].sum()), int(p.sum())) if p.any() else "—" for v, p in zip(verdicts, part, strict=True)
    ]


# ---- the two-sample test


def auc(score: Floats, label: Mask) -> float:
    """Return the probability that a simulated spectrum scores higher than a real one."""
    order = score.argsort().argsort() + 1.0
    n = label.sum()
    return float((order[label].sum() - n * (n + 1) / 2) / (n * (~label).sum()))


def two_sample(real: Sample, made: Sample, folds: int = 5, seed: int = 0) -> tuple[float, float]:
    """Return the cross-validated AUC of a network that tells simulated from real, and its bootstrap error."""
    import torch
    from torch import nn

    represent = Representation()
    x = np.concatenate([represent(s.spectra).values for s in (real, made)])
    noise = []
    for sample in (real, made):
        _, ivar = sample.coarse
        root = np.sqrt(ivar)
        noise.append(root / np.maximum(np.median(root, axis=1, keepdims=True), 1e-9))
    stacked = np.stack([np.clip(x, -8, 8), np.clip(np.concatenate(noise), 0, 5)], axis=1)
    label = np.concatenate([np.zeros(len(real)), np.ones(len(made))]).astype(bool)
    rng = np.random.default_rng(seed)
    # A real spectrum and its partners stay in one fold.
    group = np.concatenate([np.arange(len(real)), np.repeat(np.arange(len(real)), len(made) // len(real))])
    fold = rng.integers(folds, size=len(real))[group]
    score = np.zeros(len(label))
    weight = torch.tensor([(~label).sum() / label.sum()], dtype=torch.float32)
    for k in range(folds):
        torch.manual_seed(seed + k)
        net = nn.Sequential(
            *(nn.Conv1d(2, 16, 9, 3), nn.ReLU(), nn.Conv1d(16, 24, 7, 3), nn.ReLU()),
            *(nn.AdaptiveAvgPool1d(8), nn.Flatten(), nn.Dropout(0.3), nn.Linear(192, 1)),
        )
        step = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
        train = np.flatnonzero(fold != k)
        data, target = (
            torch.from_numpy(stacked.astype(np.float32)),
            torch.from_numpy(label.astype(np.float32)),
        )
        for _ in range(60):
            for rows in np.array_split(rng.permutation(train), max(1, len(train) // 64)):
                loss = nn.functional.binary_cross_entropy_with_logits(
                    net(data[rows])[:, 0], target[rows], pos_weight=weight
                )
                step.zero_grad()
                loss.backward()
                step.step()
        with torch.no_grad():
            score[fold == k] = net.eval()(data[fold == k])[:, 0].numpy()
    draws = []
    for _ in range(200):
        pick = rng.integers(len(real), size=len(real))
        rows = np.concatenate([np.flatnonzero(group == g) for g in pick])
        draws.append(auc(score[rows], label[rows]))
    return auc(score, label), float(np.std(draws))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="default", help="a network trained on real spectra: the critic")
    parser.add_argument("--templates", type=Path)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--figures", type=Path, default=Path("docs/figures"))
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    options.figures.mkdir(parents=True, exist_ok=True)
    real = {name: sample for name, (sample, _) in read_real(options.data, "test").items()}
    made = {name: partners(sample, options.copies, options.templates) for name, sample in real.items()}
    key = page(real["boss"], options.templates, options.figures / "realism-page.png")
    body = [
        "### A page of spectra\n",
        "![24 real and 24 simulated BOSS spectra](figures/realism-page.png)\n",
        f"Simulated are: {key}.\n",
        "### Distributions, BOSS quasars and their partners\n",
        "![distributions](figures/realism-distributions.png)\n",
        distributions(real["boss"], made["boss"], options.figures / "realism-distributions.png"),
        "\n### The critic\n",
        critic({name: (real[name], made[name]) for name in real}, options.model),
        "\n### Two-sample test\n",
    ]
    rows = []
    quiet = read_real(options.data, "instrument")
    sky, labels = quiet["sdss"]
    sky = sky[(sky.kind == "SKY") & np.isin(labels.plate, OPEN_SKY)]
    body.insert(6, "\n" + residuals(sky, partners(sky, 20, options.templates)))
    for name, (sample, labels) in quiet.items():
        for kind in np.unique(sample.kind):
            part = sample[(sample.kind == kind) & ((kind != "SKY") | np.isin(labels.plate, OPEN_SKY))]
            stars = None if name == "lamost" else STANDARDS
            value, error = two_sample(part, partners(part, 4, options.templates, 1, stars))
            rows.append((name, kind, len(part), f"{value:.2f} ± {error:.2f}"))
    body.append(table(("instrument", "class", "real spectra", "AUC"), rows))
    text = "\n".join(body)
    print(text)
    if options.output:
        write_between(options.output, "realism.py", text)


if __name__ == "__main__":
    main()
