"""Scores of models on real spectra and on a simulated survey that none of them has seen: docs/model.md.

    python benchmarks/model.py DATA --models default slim [--templates DIR] [--n 30000]
                               [--redrock TABLE] [-o docs/model.md]

DATA holds ``real/manifest.csv`` and the files it names. The survey (BOSS, the recipe of the archive, a seed
that no training uses) goes through files, `classify` and catalogue as a real one does.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from broadline.evaluation.bal import bal_score
from broadline.evaluation.metrics import score
from broadline.evaluation.redshifts import pull, redshift_scatter, ripple
from broadline.evaluation.reliability import reliabilities
from broadline.evaluation.sample import Sample
from broadline.lines import LINES
from broadline.named_models import load_model
from broadline.pipeline import ModelChoice, classify
from broadline.simulation.survey import Request, simulate
from markers import write_between
from real_sky import (
    NOTHING,
    Labels,
    Score,
    Verdicts,
    bal_counts,
    called,
    is_right,
    moments,
    nulls,
    read_labels,
    run_broadline,
    sets,
    share,
    table,
)
from realism import OPEN_SKY
from redrock_peer import read_verdicts

SEED = 20_261_122


# ---- real spectra


def real_rows(labels: Labels, verdicts: Verdicts) -> list[tuple[str, str]]:
    """Return every score on real spectra, of one model."""
    groups = sets(labels)
    star = labels.kind == "STAR"
    rows = []
    for name, here in groups.items():
        if name == "DESI":
            continue
        found = Score.of(labels, verdicts, here)
        _, std, nmad = moments(found.dv)
        rows.append((f"{name}: quasars right", found.completeness))
        rows.append((f"{name}: purity", found.purity))
        rows.append((f"{name}: stars called QSO", called(labels, verdicts, here & star)))
        rows.append((f"{name}: std / NMAD of dv (km/s)", f"{std} / {nmad}"))
    sdss = labels.scored & (labels.survey == "sdss")
    rows.append(("SDSS: quasars right", Score.of(labels, verdicts, sdss).completeness))
    rows.append(("DESI: quasars right", Score.of(labels, verdicts, groups["DESI"]).completeness))
    sky = labels.kind == "SKY"
    opened = np.isin(labels.plate, OPEN_SKY)
    unused = called(labels, verdicts, sky & ~opened)
    rows.append(("sky fibres not used to build the simulator, called QSO", unused))
    rows.append(("sky fibres used to build the simulator", called(labels, verdicts, sky & opened)))
    for name, here in nulls(labels).items():
        if "LAMOST" in name or "standard" in name:
            rows.append((f"{name} called QSO", called(labels, verdicts, here)))
    found_bal, rejected = bal_counts(labels, verdicts)
    rows.append(("BAL found / non-BAL rejected", f"{found_bal} / {rejected}"))
    boss = groups["BOSS + eBOSS, one epoch an object"] & verdicts.is_qso & is_right(labels, verdicts)
    pulls = ((verdicts.z - labels.z) / verdicts.z_err)[boss]
    robust = 1.4826 * np.median(np.abs(pulls - np.median(pulls)))
    rows.append(("pull of Z_ERR, BOSS + eBOSS, robust", f"{robust:.2f}" if np.isfinite(robust) else NOTHING))
    return rows


# ---- a simulated survey


def sample_of(catalogue: Path, truth: Path) -> tuple[Sample, NDArray[np.float32]]:
    """Return verdicts beside annotations, and the significance of troughs."""
    order = [(name, "ascending") for name in ("PLATE", "MJD", "FIBERID")]
    rows = pq.read_table(catalogue).sort_by(order)
    known = pq.read_table(truth).sort_by(order)

    def column(name: str) -> NDArray[np.float64]:
        return rows[name].to_numpy(zero_copy_only=False).astype(float)

    person = known["CLASS_PERSON"].to_numpy()
    kind = np.select([np.isin(person, (3, 30)), person == 1, person == 4], ["QSO", "STAR", "GALAXY"], "")
    z_vi = known["Z_VI"].to_numpy()
    lines = ("LYA", "CIV", "CIII", "MGII", "HBETA", "HALPHA")
    given = {name.lower(): column(name) for name in ("P_QSO", "P_Z", "P_BAL", "Z_ERR")}
    sample = Sample(
        z=column("Z"),
        truth=kind.astype(np.str_),
        z_truth=np.where(z_vi > -0.5, z_vi, np.nan),
        c=np.stack([column(f"C_{name}") for name in lines], axis=1),
        c_bal=column("C_BAL_CIV"),
        confidence=known["Z_CONF_PERSON"].to_numpy().astype(np.int64),
        bal=known["BAL_FLAG_VI"].to_numpy().astype(np.int64),
        balnicity=known["BI_CIV"].to_numpy().astype(float),
        object_id=known["THING_ID"].to_numpy(),
        **{name: values for name, values in given.items() if np.isfinite(values).any()},
    )
    return sample, known["BAL_SIGNIFICANCE"].to_numpy()


def simulated_rows(sample: Sample, trough: NDArray[np.float32], name: str) -> list[tuple[str, str]]:
    """Return every score on the simulated survey, of one model."""
    model = load_model(name)
    found = score(sample)
    scatter = redshift_scatter(sample)
    rows = [
        ("purity", _share(found.purity)),
        ("completeness", _share(found.completeness)),
        ("catastrophic redshifts", _share(found.catastrophic)),
        ("std / NMAD of dv (km/s)", f"{scatter.right.std:.0f} / {scatter.right.nmad:.0f}"),
    ]
    star = sample.annotated("STAR")
    rows.append(("stars called QSO", share(int((star & sample.quasar).sum()), int(star.sum()))))
    seen = sample.take((sample.balnicity <= 0) | (trough > 60))  # type: ignore[operator]
    for text, part in (("detectable troughs", seen), ("all troughs", sample)):
        bal = bal_score(part, model.rule.c_th_bal)
        if bal is not None:
            cells = (bal.pseudo_completeness, bal.non_bal, bal.pseudo_purity)
            text = f"BAL completeness / non-BAL rejected / pseudo-purity, {text}"
            rows.append((text, " / ".join(f"{100 * cell.value:.1f} %" for cell in cells)))
    pulled = pull(sample)
    if pulled:
        rows.append(("pull of Z_ERR: std / robust", f"{pulled.right.std:.2f} / {pulled.right.nmad:.2f}"))
    wave = ripple(sample, LINES["MGII"], model.representation.grid, model.recipe.finders.n_boxes)
    rows.append(("ripple at the box period of MgII (km/s)", f"{wave.amplitude:.0f} ± {wave.error:.0f}"))
    for key, each in reliabilities(sample).items():
        rows.append((f"ECE of {key.upper()}", f"{each.ece:.4f}"))
    return rows


def _share(value: object) -> str:
    return share(value.k, value.n)  # type: ignore[attr-defined]


def side_by_side(models: list[str], columns: list[list[tuple[str, str]]]) -> str:
    """Return one table of all models; a row that a model lacks gets a dash."""
    names = list(dict.fromkeys(name for column in columns for name, _ in column))
    cells = [dict(column) for column in columns]
    return table(("", *models), [(name, *(cell.get(name, NOTHING) for cell in cells)) for name in names])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", default=["default"])
    parser.add_argument("--templates", type=Path)
    parser.add_argument("--n", type=int, default=30_000)
    parser.add_argument("--redrock", type=Path, help="table of benchmarks/redrock_peer.py")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    real, simulated = [], []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        request = Request.of("boss", options.n, SEED, templates=options.templates)
        simulate(request, root / "survey")
        for name in options.models:
            choice = ModelChoice(name, empty="zero")
            keys, verdicts = run_broadline(options.data, choice, name)
            real.append(real_rows(read_labels(options.data, keys), verdicts))
            classify([root / "survey"], root / "catalogue.parquet", choice)
            sample, trough = sample_of(root / "catalogue.parquet", root / "survey" / "truth.parquet")
            simulated.append(simulated_rows(sample, trough, name))
    names = list(options.models)
    if options.redrock:
        labels = read_labels(options.data, keys)
        for name, warned in (("redrock, ZWARN 0", False), ("redrock, best fit", True)):
            said = read_verdicts(options.redrock, keys, name, warned)
            real.append([row for row in real_rows(labels, said) if not row[0].startswith("BAL")])
            names.append(name)
    text = "\n\n".join(
        [
            "### Real spectra",
            side_by_side(names, real),
            f"### Simulated BOSS survey, {options.n:,} spectra (simulated)",
            side_by_side(options.models, simulated),
        ]
    )
    print(text)
    if options.output:
        write_between(options.output, "model.py", text)


if __name__ == "__main__":
    main()
