"""Print how the demo's catalogue compares with what was simulated, and draw its best-seen quasar.

python demo/compare.py OUT
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from astropy.table import Table

import broadline
from broadline.decision import velocity
from broadline.show import draw


def main(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        catalogue = Table.read(folder / "catalogue.fits")
    keys = ["PLATE", "MJD", "FIBERID"]
    catalogue.sort(keys)
    known = pq.read_table(folder / "survey" / "truth.parquet").sort_by([(key, "ascending") for key in keys])
    truth = {
        name: known[name].to_numpy() for name in ("Z_CONF_PERSON", "CLASS_PERSON", "TRUE_CLASS", "Z_VI", "SN")
    }
    quasar = np.asarray(truth["Z_CONF_PERSON"] == 3) & np.isin(truth["CLASS_PERSON"], (3, 30))
    other = np.isin(truth["TRUE_CLASS"], ("STAR", "GALAXY", "SKY"))
    called = np.asarray(catalogue["IS_QSO"], dtype=bool)
    dv = velocity(np.asarray(catalogue["Z"], dtype=float), np.where(quasar, truth["Z_VI"], 0))
    right = quasar & called & (np.abs(dv) < 6000)
    print(f"quasars an expert is sure of, found with the right redshift: {right.sum()} of {quasar.sum()}")
    print(f"stars, galaxies and empty sky called quasar: {(called & other).sum()} of {other.sum()}")
    best = catalogue["SOURCE"][np.argmax(np.where(right, truth["SN"], 0))]
    (spectra,) = broadline.read(Path(str(best)))
    draw(spectra, broadline.load_model("default")).savefig(folder / "quasar.png", dpi=150)
    print(f"open {folder / 'catalogue.fits'} (TOPCAT, astropy) and {folder / 'quasar.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
