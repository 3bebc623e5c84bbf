"""Real spectra made fainter: noise is added to good ones, and networks are followed down.

    python benchmarks/degrade.py DATA --models default slim [--copies 5] [-o docs/model.md]

Only use=test spectra of BOSS, eBOSS and SDSS with truth_quality >= 1, one epoch an object, that are at least
a fifth better than asked. Variances grow by (S/N)^2 / (S/N asked)^2, with Gaussian noise to match.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from broadline.decision import CONFLICT_KMS, velocity
from broadline.named_models import load_model
from markers import write_between
from real_sky import NOTHING, share, table
from realism import Sample, read_real

TARGETS = (2.0, 1.0, 0.5)


def fainter(sample: Sample, sn: float, copies: int, rng: np.random.Generator) -> Sample:
    """Return spectra of a sample with noise added until their median S/N is `sn`, `copies` of each."""
    rows = np.repeat(np.flatnonzero(sample.sn > 1.2 * sn), copies)
    chosen = sample[rows]
    growth = ((chosen.sn / sn) ** 2)[:, None].astype(np.float32)
    sigma = np.where(chosen.ivar > 0, 1 / np.sqrt(np.where(chosen.ivar > 0, chosen.ivar, 1)), 0)
    noise = rng.standard_normal(chosen.flux.shape, dtype=np.float32) * sigma * np.sqrt(growth - 1)
    return Sample(sample.name, chosen.flux + noise, chosen.ivar / growth, chosen.kind, chosen.z)


def judged(sample: Sample, model: str) -> tuple[int, int, int, int, np.ndarray]:
    """Return quasars right and all, stars called quasar and all, and the velocity errors of those right."""
    found = load_model(model).classify_batch(sample.spectra)
    called, z = np.asarray(found["IS_QSO"]), np.asarray(found["Z"], dtype=float)
    quasar, star = sample.kind == "QSO", sample.kind == "STAR"
    dv = velocity(z, np.nan_to_num(sample.z))
    right = quasar & called & (np.abs(dv) < CONFLICT_KMS)
    return int(right.sum()), int(quasar.sum()), int((star & called).sum()), int(star.sum()), dv[right]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", default=["default"])
    parser.add_argument("--copies", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    real = [sample for name, (sample, _) in read_real(options.data, "test").items() if name != "lamost"]
    rows = []
    for sn in TARGETS:
        rng = np.random.default_rng(1)
        samples = [fainter(sample, sn, options.copies, rng) for sample in real]
        for model in options.models:
            counts = [judged(sample, model) for sample in samples if len(sample)]
            right, quasars, called, stars = (sum(each[i] for each in counts) for i in range(4))
            dv = np.concatenate([each[4] for each in counts])
            nmad = 1.4826 * np.median(np.abs(dv - np.median(dv))) if len(dv) else np.nan
            kms = f"{nmad:.0f}" if len(dv) else NOTHING
            rows.append((f"{sn:g}", model, share(right, quasars), share(called, stars), kms))
    text = table(("S/N a pixel", "model", "quasars right", "stars called QSO", "NMAD (km/s)"), rows)
    text += f"\n\n{options.copies} draws of noise a spectrum: the intervals are too narrow by about as much."
    print(text)
    if options.output:
        write_between(options.output, "degrade.py", text)


if __name__ == "__main__":
    main()
