"""Write a small survey: 80 synthetic spectra as SDSS spec files, and the truth beside them.

python demo/make_survey.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from synthetic import FIRST, N_PIXELS, simulate


def main(folder: Path, n: int = 80) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    spectra, z = simulate(n, seed=7)
    kind = np.where(np.isnan(z), "STAR", np.where(z < 0, "GALAXY", "QSO"))
    z = np.nan_to_num(np.abs(z))
    loglam = 1e-4 * (FIRST + np.arange(N_PIXELS))
    for i in range(n):
        plate, mjd, fiber = (int(spectra.ids[name][i]) for name in ("PLATE", "MJD", "FIBERID"))
        primary = fits.PrimaryHDU()
        cards = {"COEFF0": loglam[0], "COEFF1": 1e-4, "PLATEID": plate, "MJD": mjd, "FIBERID": fiber}
        primary.header.update(cards, PLUG_RA=spectra.ids["RA"][i], PLUG_DEC=spectra.ids["DEC"][i])
        zeros = np.zeros(N_PIXELS)
        pixels = {"flux": spectra.flux[i], "loglam": loglam.astype("f4"), "ivar": spectra.ivar[i]}
        masks = {"and_mask": zeros.astype("i4"), "or_mask": zeros.astype("i4")}
        rest = {name: zeros.astype("f4") for name in ("wdisp", "sky", "model")}
        result = Table(
            {"CLASS": [kind[i]], "Z": np.float32([z[i]]), "ZWARNING": np.int32([0]), "OBJTYPE": ["QSO"]}
        )
        tables = [
            fits.BinTableHDU(Table(pixels | masks | rest), name="COADD"),
            fits.BinTableHDU(result, name="SPALL"),
        ]
        name = f"spec-{plate:04d}-{mjd:05d}-{fiber:04d}.fits"
        fits.HDUList([primary, *tables]).writeto(folder / name, overwrite=True)
    print(f"wrote {n} spectra to {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
