"""A small survey to inspect: spectra of which all is known, and a catalogue that is wrong in places."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from broadline.catalogue import rows
from broadline.flags import Flag
from broadline.lines import QUASARNET_LINES
from broadline.writers import CatalogueWriter
from files import observed, star, write_spec

N = 26
META = {"version": "0.1.0", "model": "by-hand", "rule": "c_th=0.3 l_min=1 c_th_bal=0.3"}
#: Rows whose catalogue has MgII for Lya, and the right redshift second.
SWAPPED = (1, 6, 11)
CONFLICT, BAL, STAR_CALLED = 3, 7, 4
LYA, MGII = QUASARNET_LINES[0].wavelength, QUASARNET_LINES[3].wavelength


def true_kind(row: int) -> str:
    return "STAR" if row % 5 == 4 else "QSO"


def true_z(row: int) -> float:
    return 0.0 if true_kind(row) == "STAR" else 0.55 + 0.03 * row


def write_survey(folder: Path, name: str = "{:04d}-{:05d}-{:04d}") -> Path:
    """Write spectra/ and catalogue.parquet into a folder; return the catalogue's path."""
    (folder / "spectra").mkdir()
    objects, sources = [], []
    for row in range(N):
        objects.append(name.format(4055, 55359, row + 1))
        path = folder / "spectra" / f"spec-4055-55359-{row + 1:04d}.fits"
        fields = {"fiber": row + 1, "kind": true_kind(row), "z": true_z(row), "ra": 10 + 0.1 * row}
        if true_kind(row) == "STAR":
            flux, ivar = observed(star(), seed=row)
            write_spec(path, flux, ivar, **fields)
        else:
            write_spec(path, **fields)
        sources.append(str(path))
    write_catalogue(folder / "catalogue.parquet", objects, sources)
    return folder / "catalogue.parquet"


def write_catalogue(path: Path, objects: list[str], sources: list[str], seed: int = 0) -> None:
    """Write what a network might have made of the spectra; `seed` changes nothing but the bytes."""
    z = np.array([true_z(row) for row in range(N)])
    called = np.array([true_kind(row) == "QSO" for row in range(N)])
    called[STAR_CALLED] = True
    c = np.where(called[:, None], [0.02, 0.02, 0.9, 0.95, 0.9, 0.02, 0.01], 0.01).astype(np.float32)
    z_lines = np.repeat(z[:, None], 7, axis=1)
    swapped = np.array(SWAPPED)
    wrong = MGII * (1 + z[swapped]) / LYA - 1
    c[swapped] = [0.6, 0.01, 0.01, 0.25, 0.01, 0.01, 0.01]
    z_lines[swapped, 0], z[swapped] = wrong, wrong
    z[STAR_CALLED] = z_lines[STAR_CALLED, 3] = 1.3
    c[STAR_CALLED] = [0.01, 0.01, 0.01, 0.4, 0.01, 0.01, 0.01]
    c[CONFLICT, 0], z_lines[CONFLICT, 0] = 0.5, 2.8
    p_z = np.where(called, 0.89 - 0.005 * np.arange(N), 0.01)
    p_z[[*SWAPPED, STAR_CALLED]] = 0.4
    flags = np.zeros(N, dtype=np.uint32)
    flags[CONFLICT] |= np.uint32(Flag.CONFLICTING_LINES)
    ids = {
        "ARCHIVE": np.full(N, "sdss", dtype=object),
        "SOURCE": np.array(sources, dtype=object),
        "ROW": np.zeros(N, dtype=np.int64),
        "OBJID": np.array(objects, dtype=object),
        "RA": 10 + 0.1 * np.arange(N),
        "DEC": np.full(N, 2.25),
        "PLATE": np.full(N, 4055, dtype=np.int32),
        "MJD": np.full(N, 55359, dtype=np.int32),
        "FIBERID": np.arange(1, N + 1, dtype=np.int32),
    }
    results = {
        "IS_QSO": called,
        "Z": z,
        "Z_ERR": np.full(N, 1e-3),
        "BEST_LINE": c[:, :6].argmax(axis=1),
        "N_LINES": (c[:, :6] > 0.3).sum(axis=1),
        "IS_BAL": np.arange(N) == BAL,
        "P_QSO": np.where(called, 0.95, 0.02),
        "P_Z": p_z,
        "P_BAL": np.where(np.arange(N) == BAL, 0.5, 0.01),
        "NEEDS_VI": (c[:, :6] > 0.3).sum(axis=1) == 1,
        **{f"C_{line.name}": c[:, i] for i, line in enumerate(QUASARNET_LINES)},
        **{f"Z_{line.name}": z_lines[:, i] for i, line in enumerate(QUASARNET_LINES)},
    }
    with CatalogueWriter(path, QUASARNET_LINES, META | {"seed": str(seed)}) as writer:
        writer.append(rows(ids, flags, np.full(N, 8, dtype=np.float32), results))
