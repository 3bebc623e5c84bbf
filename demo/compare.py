"""Print how the demo's catalogue compares with what was put into its spectra.

python demo/compare.py OUT
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
from astropy.table import Table

import broadline
from broadline.decision import velocity


def main(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        catalogue = Table.read(folder / "catalogue.fits")
    truth = broadline.read_truth(folder / "survey")
    quasar = truth["CLASS"] == "QSO"
    called = np.asarray(catalogue["IS_QSO"], dtype=bool)
    dv = velocity(np.asarray(catalogue["Z"], dtype=float), np.asarray(truth["Z"]))
    right = quasar & called & (np.abs(dv) < 6000)
    print(f"quasars found with the right redshift: {right.sum()} of {quasar.sum()}")
    print(f"stars and galaxies called quasar:      {(called & ~quasar).sum()} of {(~quasar).sum()}")
    print(f"open {folder / 'catalogue.fits'} (TOPCAT, astropy) and {folder / 'quasar.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
