"""Simulated LAMOST surveys: one low-resolution file a spectrum, the general catalogue and quasar catalogues.

Files of spectra follow the layout of DR5 (lamost.org, "data production description", section 2, and the
headers of real files); the general catalogue is the 36 columns of its section 3.1, of all fibres on targets;
the quasar catalogues have those columns of the LAMOST quasar survey's full catalogue that do not come from
fitting emission lines (nadc.china-vo.org, article 20190110142147). The headers say that nothing was observed.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from broadline.simulation.files.sdss_tables import (
    BLOCK,
    Field,
    primary_header,
    published,
    records,
    sdss_name,
    table_header,
)
from broadline.simulation.instrument import COMBINEREJ, NODATA
from broadline.simulation.pointing import Pointing
from broadline.spectra import LATTICE_STEP

__all__ = ["identity_columns", "write_catalogues", "write_spectra"]

Table = Mapping[str, NDArray[Any]]

_MISSING = -9999
_ORDINAL = 678_576  # of MJD 0, 1858-11-17, in Python's calendar
# What the and-mask says of a pixel (DR5, section 2.3): bad on the CCD, no data.
_BADCCD, _EMPTY = 1.0, 32.0
# ZWARNING of SDSS: many outliers, which a good fit may have too.
_OUTLIERS = 1 << 4
# Centre and width of the bands in which S/N is given (Angstrom; Fukugita et al. 1996, table 2).
_BANDS = {"U": (3557, 599), "G": (4825, 1379), "R": (6261, 1382), "I": (7672, 1535), "Z": (9097, 1370)}
# The quasar catalogues, and the papers whose they are.
_QUASAR_FILES = {
    "lamost_dr1_quasars.fits": "Ai et al. 2016, AJ 151, 24",
    "lamost_dr23_quasars.fits": "Dong et al. 2018, AJ 155, 189",
    "lamost_dr45_quasars.fits": "Yao et al. 2019, ApJS 240, 6",
}

#: The header: values in braces are those of the spectrum (`_own_values`) or of the pointing.
_HEADER = """\
SIMPLE  = T / conforms to FITS
BITPIX  = -32 / single precision
NAXIS   = 2 / an image
NAXIS1  = {NAXIS1} / pixels
NAXIS2  = 5 / rows, see EXTEN0
EXTEND  = T /
COMMENT --------FILE INFORMATION
COMMENT simulated: nothing in this file was observed
FILENAME= {FILENAME} / name of this file
OBSID   = {OBSID} / number of this spectrum
AUTHOR  = 'broadline' / who made the file
DATA_V  = 'LAMOST DR5' / data release whose layout this is
EXTEN0  = 'Flux, Inverse, Wavelength, Andmask, Ormask' /
N_EXTEN = 1 / number of images
EXTNAME = 'Flux' / name of the image
ORIGIN  = 'broadline simulation' / no observatory
DATE    = '{NIGHT}T16:00:00' / time of the file
COMMENT --------TELESCOPE PARAMETERS
TELESCOP= 'LAMOST' / Guo Shou Jing Telescope
LONGITUD= 117.58 / [deg] of the site
LATITUDE= 40.39 / [deg] of the site
FOCUS   = 19964 / [mm]
CAMPRO  = 'NEWCAM' / camera program
CAMVER  = 'v2.0' / its version
COMMENT --------OBSERVATION PARAMETERS
DATE-OBS= '{NIGHT}T14:00:00' / UTC of the middle
DATE-BEG= '{NIGHT}T21:15:00.0' / local time of the start
DATE-END= '{NIGHT}T22:45:00.0' / local time of the end
LMJD    = {LMJD} / local modified Julian day
MJD     = {MJD} / modified Julian day
LMJMLIST= '{LMJM}' / local Julian minutes of exposures
PLANID  = '{PLANID}' / plan
RA      = {RA} / [deg] of the object
DEC     = {DEC} / [deg] of the object
RA_OBS  = {RA} / [deg] of the fibre
DEC_OBS = {DEC} / [deg] of the fibre
OFFSET  = F / whether the fibre was moved off the object
OFFSET_V= 0.00 / [arcsec] by how much
DESIG   = {DESIG} / designation of the target
FIBERID = {FIBERID} / fibre
CELL_ID = '' / unit on the focal plane
X_VALUE = '' / [mm] on the focal plane
Y_VALUE = '' / [mm] on the focal plane
OBJNAME = {OBJNAME} / name of the object
OBJTYPE = {OBJTYPE} / type in the input catalogue
TSOURCE = 'BROADLINE' / input catalogue
TCOMMENT= '.' / on the target
TFROM   = '-' / source of the input catalogue
FIBERTYP= {FIBERTYP} / what the fibre saw
FIBERMAS= 0 / warnings, 0 is well
MAGTYPE = 'ugriz' / bands of the magnitudes
MAG1    = {MAG1} / [mag]
MAG2    = {MAG2} / [mag]
MAG3    = {MAG3} / [mag]
MAG4    = {MAG4} / [mag]
MAG5    = {MAG5} / [mag]
MAG6    = 99.00 / [mag]
MAG7    = 99.00 / [mag]
OBS_TYPE= 'OBJ' / OBJ, FLAT, ARC or BIAS
OBSCOMM = 'Science' / Science or Test
RADECSYS= 'FK5' / coordinate system
EQUINOX = 2000.00 / [yr]
LAMPLIST= 'lamphgcdne.dat' / arc lines
SKYLIST = 'skylines.dat' / sky lines
NEXP    = 3 / valid exposures
NEXP_B  = 3 / valid blue exposures
NEXP_R  = 3 / valid red exposures
EXPT_B  = 4500.00 / [s] blue
EXPT_R  = 4500.00 / [s] red
EXPTIME = 4500.00 / [s] the shorter of both
BESTEXP = {BESTEXP} / local Julian minute of the best exposure
COMMENT --------SPECTROGRAPH PARAMETERS
SPID    = {SPID} / spectrograph
SPRA    = {SPRA} / [deg] mean of its objects
SPDEC   = {SPDEC} / [deg] mean of its objects
SLIT_MOD= 'x2/3' / slit mode
COMMENT --------WEATHER CONDITION
SEEING  = 3.00 / [arcsec]
COMMENT --------DATA REDUCTION PARAMETERS
EXTRACT = 'aperture' / extraction
SFLATTEN= T / super flat applied
PCASKYSB= T / sky subtracted with principal components
NSKIES  = {NSKIES} / fibres on sky
HELIO   = T / heliocentric
HELIO_RV= 0.00000 / [km/s] correction
VACUUM  = T / wavelengths are in vacuum
NWORDER = 2 / coefficients
WFITTYPE= 'LOG-LINEAR' / dispersion
COEFF0  = {COEFF0} / log10(wavelength) of the first pixel
COEFF1  = 0.0001 / log10 step of a pixel
WAT0_001= 'system=linear' /
WAT1_001= 'wtype=linear label=Wavelength units=Angstroms' /
CRVAL1  = {COEFF0} / log10(wavelength) of the first pixel
CD1_1   = 0.0001 / log10 step of a pixel
CRPIX1  = 1 / first pixel
CTYPE1  = 'LINEAR' /
DC-FLAG = 1 / log-linear
COMMENT --------SPECTRA ANALYSIS RESULTS
VERSPIPE= 'v2.9.7' / pipeline that is imitated
CLASS   = {CLASS} / class of the object
SUBCLASS= {SUBCLASS} / subclass of the object
Z       = {Z} / redshift
Z_ERR   = {Z_ERR} / its error
ZFLAG   = 'PIPELINE' / what gave the redshift
SNRU    = {SNRU} / S/N in u
SNRG    = {SNRG} / S/N in g
SNRR    = {SNRR} / S/N in r
SNRI    = {SNRI} / S/N in i
SNRZ    = {SNRZ} / S/N in z
"""


# ---- who is who


def identity_columns(pointing: Pointing) -> dict[str, NDArray[Any]]:
    """Return what the archive calls the spectra, and their signal-to-noise ratios.

    A pointing is one of the sixteen spectrographs of a plan.

    Parameters
    ----------
    pointing : Pointing
        Of LAMOST, with at most 250 fibres.

    Returns
    -------
    dict of str to ndarray, shape (n_spectra,)
        LMJD, PLANID, SPID, FIBERID, OBSID (plan and visit, spectrograph and fibre as digits, as in the
        archive), and SNRU, SNRG, SNRR, SNRI, SNRZ: the median of flux * sqrt(ivar) in each band, not below
        0, pixels without data counted as 0; both the files and the general catalogue have them.
    """
    fiber = pointing.table["FIBER"].astype(np.int64)
    plan, spid = divmod(pointing.number, 16)
    first = (2 * plan + pointing.visit + 1) * 100_000 + (spid + 1) * 1000
    values = {"LMJD": pointing.mjd, "PLANID": f"BLSIM{plan:05d}", "SPID": spid + 1}
    same = {name: np.full(len(fiber), value) for name, value in values.items()}
    return {**same, "FIBERID": fiber, "OBSID": first + fiber, **_signal_to_noise(pointing)}


def _signal_to_noise(pointing: Pointing) -> dict[str, NDArray[Any]]:
    observed, wavelength = pointing.observed, pointing.instrument.wavelength
    ratio = np.sqrt(observed.ivar)
    ratio *= observed.flux
    found = {}
    for band, (centre, width) in _BANDS.items():
        inside = slice(*np.searchsorted(wavelength, [centre - width / 2, centre + width / 2]))
        found[f"SNR{band}"] = np.maximum(np.median(ratio[:, inside], axis=1), 0)
    return found


def _fibre_type(table: Table) -> NDArray[Any]:
    """Return what each fibre saw: Obj, Sky or Dead (broken), as in FIBERTYP."""
    dead = table["TRUE_SUBCLASS"] == "DEAD"
    return np.where(dead, "Dead", np.where(table["TRUE_CLASS"] == "SKY", "Sky", "Obj"))


def _verdict(table: Table) -> dict[str, NDArray[Any]]:
    """Return class, subclass and redshift as LAMOST says them: it has no warnings but the class Unknown."""
    doubted = (table["FIT_ZWARNING"][:, 0] & ~_OUTLIERS) != 0
    doubted |= _fibre_type(table) != "Obj"
    kind = np.where(doubted, "Unknown", table["FIT_CLASS"][:, 0])
    words = np.char.partition(table["FIT_SUBCLASS"][:, 0], " ")[:, 0]
    return {
        "CLASS": kind,
        "SUBCLASS": np.where((kind == "STAR") & (words != ""), words, "Non"),
        "Z": np.where(doubted, _MISSING, np.round(table["FIT_Z"][:, 0], 8)),
        "Z_ERR": np.where(doubted, _MISSING, np.round(table["FIT_Z_ERR"][:, 0].astype(np.float64), 8)),
    }


def _magnitudes(table: Table) -> NDArray[np.float64]:
    """Return the magnitudes in ugriz, 99 where there are none, shape (n_spectra, 5)."""
    magnitude = table["PSFMAG"].astype(np.float64)
    return np.where(np.isfinite(magnitude) & (magnitude > 0), np.round(magnitude, 2), 99)


def _designations(table: Table) -> NDArray[np.str_]:
    """Return JHHMMSS.ss+DDMMSS.s of each position."""
    return np.strings.add("J", sdss_name(table["RA"], table["DEC"]).astype(str))


# ---- files of spectra


def write_spectra(pointing: Pointing, folder: Path) -> None:
    """Write ``spectra/LMJD/PLANID/spec-LMJD-PLANID_spNN-FFF.fits.gz`` for each spectrum.

    The same pointing always gives the same bytes.

    Parameters
    ----------
    pointing : Pointing
        Of LAMOST, with at most 250 fibres.
    folder : Path
        Root of the survey; it is made if it is not there.

    Raises
    ------
    UsageError
        If a file cannot be written; nothing is left of that file then, those before it stay.
    """
    observed, identity = pointing.observed, identity_columns(pointing)
    rows = np.empty((5, observed.flux.shape[1]), dtype=">f4")
    rows[2] = pointing.instrument.wavelength
    mask = np.float32(_BADCCD) * ((observed.and_mask & COMBINEREJ) != 0)
    mask += np.float32(_EMPTY) * ((observed.and_mask & NODATA) != 0)
    own = _own_values(pointing, identity)
    place = folder / "spectra" / f"{pointing.mjd}" / f"{identity['PLANID'][0]}"
    padding = bytes(-rows.nbytes % BLOCK)
    for i, header in enumerate(_headers(_shared_values(pointing, identity), own, len(mask))):
        rows[0], rows[1], rows[3], rows[4] = observed.flux[i], observed.ivar[i], mask[i], mask[i]
        with published(place / f"{own['FILENAME'][i][1:-1]}.gz") as stream:
            stream.write(_packed(header + rows.tobytes() + padding))


def _packed(content: bytes) -> bytes:
    """Return a gzip stream without name and time.

    Run-length matches alone: on spectra as small as level 1, in a third of the time, as mantissas are noise.
    """
    packer = zlib.compressobj(1, zlib.DEFLATED, 31, 9, zlib.Z_RLE)
    return packer.compress(content) + packer.flush()


def _shared_values(pointing: Pointing, identity: Table) -> dict[str, Any]:
    """Return the header's values that all spectra of a pointing have."""
    table = pointing.table
    angle = np.radians(table["RA"])
    ra = np.degrees(np.arctan2(np.sin(angle).sum(), np.cos(angle).sum())) % 360
    # Three exposures; LMJD is the day after the evening.
    minutes = [(pointing.mjd - 1) * 1440 + 1275 + 30 * k for k in range(3)]
    return {
        "NAXIS1": len(pointing.instrument.wavelength),
        "NIGHT": date.fromordinal(pointing.mjd - 1 + _ORDINAL),
        "LMJD": pointing.mjd,
        "MJD": pointing.mjd - 1,
        "LMJM": "-".join(map(str, minutes)),
        "BESTEXP": minutes[0],
        "PLANID": identity["PLANID"][0],
        "SPID": identity["SPID"][0],
        "SPRA": f"{ra:.7f}",
        "SPDEC": f"{table['DEC'].mean():.7f}",
        "NSKIES": int((_fibre_type(table) == "Sky").sum()),
        "COEFF0": f"{round(np.log10(pointing.instrument.wavelength[0]) / LATTICE_STEP) * LATTICE_STEP:.4f}",
    }


def _own_values(pointing: Pointing, identity: Table) -> dict[str, list[str]]:
    """Return the header's values that each spectrum has for itself, as FITS writes them."""
    table, verdict, kinds = pointing.table, _verdict(pointing.table), _fibre_type(pointing.table)
    fibers = identity["FIBERID"].tolist()
    stem = f"spec-{pointing.mjd}-{identity['PLANID'][0]}_sp{identity['SPID'][0]:02d}"
    texts = {
        "FILENAME": [f"{stem}-{fiber:03d}.fits" for fiber in fibers],
        "DESIG": np.strings.add("LAMOST ", _designations(table)).tolist(),
        "OBJNAME": np.where(kinds == "Obj", table["THING_ID"].astype(str), kinds).tolist(),
        "OBJTYPE": np.where(kinds == "Obj", "QSO", kinds).tolist(),
        "FIBERTYP": kinds.tolist(),
        "CLASS": verdict["CLASS"].tolist(),
        "SUBCLASS": verdict["SUBCLASS"].tolist(),
    }
    numbers = {"OBSID": (identity["OBSID"], "d"), "FIBERID": (identity["FIBERID"], "d")}
    numbers |= {name: (table[name], ".6f") for name in ("RA", "DEC")}
    numbers |= {f"MAG{i + 1}": (column, ".2f") for i, column in enumerate(_magnitudes(table).T)}
    numbers |= {name: (verdict[name], ".8f") for name in ("Z", "Z_ERR")}
    numbers |= {f"SNR{band}": (identity[f"SNR{band}"], ".2f") for band in _BANDS}
    own = {name: [f"'{text:8}'" for text in column] for name, column in texts.items()}
    return own | {name: [f"{x:{form}}" for x in column.tolist()] for name, (column, form) in numbers.items()}


def _headers(shared: Mapping[str, Any], own: Mapping[str, list[str]], n: int) -> Iterator[bytes]:
    """Yield the header of each spectrum: all cards are made once, then those of its own replaced."""
    cards: list[bytes] = []
    replaced: list[tuple[int, str, list[str]]] = []
    for line in _HEADER.splitlines():
        name = line.partition("{")[2].partition("}")[0]
        if name in own:
            replaced.append((len(cards), line, own[name]))
        cards.append(b"" if name in own else _card(line.format_map(shared)))
    size = -(-80 * (len(cards) + 1) // BLOCK) * BLOCK
    for i in range(n):
        for at, line, values in replaced:
            start, _, end = line.partition("{")
            cards[at] = _card(start + values[i] + end.partition("}")[2])
        yield (b"".join(cards) + b"END").ljust(size)


def _card(line: str) -> bytes:
    """Return one card of 80 bytes: texts to the left of their field, numbers to the right."""
    keyword, equals, rest = line.partition("= ")
    if equals:
        value, _, comment = rest.partition(" /")
        value = f"{value[:-1]:9}'" if value.startswith("'") else f"{value:>20}"
        line = f"{keyword}= {value:20} /{comment}"
    return line.ljust(80).encode("ascii")


# ---- catalogues


def write_catalogues(tables: Iterable[Table], folder: Path) -> list[Path]:
    """Write the general catalogue and the three quasar catalogues of a survey.

    ``dr5_v3.csv.gz`` has a row a target (fibres on sky and broken ones are left out), columns parted by "|".
    The quasar catalogues (FITS) hold the spectra that an inspector called quasars with full confidence
    (CLASS_PERSON 3 or 30, Z_CONF_PERSON 3), the nights of the survey divided into thirds: DR1 (Ai et al.
    2016), DR2 and 3 (Dong et al. 2018), DR4 and 5 (Yao et al. 2019). Their MJD is LMJD - 1. What is not
    known of a simulated quasar is -9999, as what is not given is there.

    Parameters
    ----------
    tables : iterable of mapping of str to ndarray
        Chunks of spectra in the order of the catalogue: the columns of `Pointing.table` and of
        `identity_columns`. They are read once, one at a time.
    folder : Path
        Made if it is not there.

    Returns
    -------
    list of Path
        The four files.

    Raises
    ------
    UsageError
        If a file cannot be written; nothing is left of that file then.
    """
    path = folder / "dr5_v3.csv.gz"
    quasars: Counter[int] = Counter()  # by LMJD; a night without any has a 0
    # Which third a spectrum belongs to is known after the last one.
    with published(path) as stream, TemporaryFile(dir=folder) as spool:
        fields: dict[str, Field] = {}
        with gzip.GzipFile("", "wb", 1, stream, 0) as packed:
            for table in tables:
                _write_csv(packed, _general(table), header=not fields)
                fields = _quasar_fields(table)
                spool.write(records(fields).tobytes())
                quasars.update(dict.fromkeys(np.unique(table["LMJD"]).tolist(), 0))
                quasars.update((fields["MJD"].values + 1).tolist())
        if not fields:
            raise ValueError("there is no table of which a catalogue could be made")
        return [path, *_write_quasars(spool, fields, quasars, folder)]


def _write_csv(stream: gzip.GzipFile, table: pa.Table, header: bool) -> None:
    if header:
        stream.write(("|".join(table.column_names) + "\n").encode())
    options = pa.csv.WriteOptions(include_header=False, delimiter="|", quoting_style="none")
    pa.csv.write_csv(table, stream, options)


def _general(table: Table) -> pa.Table:
    """Return the rows of the general catalogue."""
    target = _fibre_type(table) == "Obj"
    table = {name: column[target] for name, column in table.items()}
    n, lmjd = len(table["LMJD"]), table["LMJD"].astype(np.int64)
    ra, dec = np.round(table["RA"], 6), np.round(table["DEC"], 6)
    magnitudes, night = _magnitudes(table), (lmjd - 1).astype("m8[D]")
    names = ("LMJD", "PLANID", "SPID", "FIBERID")
    columns: dict[str, Any] = {
        "obsid": table["OBSID"],
        "designation": _designations(table),
        "obsdate": (np.datetime64("1858-11-17") + night).astype(str),
        **{name.lower(): table[name] for name in names},
        "ra": ra,
        "dec": dec,
        **{f"snr{x.lower()}": np.round(table[f"SNR{x}"].astype(np.float64), 2) for x in _BANDS},
        "objtype": ["QSO"] * n,
        **{name.lower(): column for name, column in _verdict(table).items()},
        "magtype": ["ugriz"] * n,
        **{f"mag{i + 1}": magnitudes[:, i] if i < 5 else np.full(n, 99.0) for i in range(7)},
        "tsource": ["BROADLINE"] * n,
        "fibertype": ["Obj"] * n,
        "tfrom": ["-"] * n,
        "tcomment": ["."] * n,
        "offsets": ["False"] * n,
        "offset_v": np.zeros(n),
        "ra_obs": ra,
        "dec_obs": dec,
    }
    at = list(columns).index("planid")
    rows = pa.table(columns)
    return rows.add_column(at, "mjd", pa.array(lmjd - 1))


def _quasar_fields(table: Table) -> dict[str, Field]:
    """Return the rows of the quasar catalogues."""
    sure = np.isin(table["CLASS_PERSON"], (3, 30)) & (table["Z_CONF_PERSON"] >= 3)
    table = {name: column[sure] for name, column in table.items()}
    return {
        "ObsID": Field("K", table["OBSID"]),
        "Designation": Field("18A", sdss_name(table["RA"], table["DEC"])),
        "RA": Field("D", table["RA"], "deg"),
        "Dec": Field("D", table["DEC"], "deg"),
        "MJD": Field("J", table["LMJD"] - 1, "d"),
        "planID": Field("10A", table["PLANID"]),
        "spID": Field("J", table["SPID"]),
        "fiberID": Field("J", table["FIBERID"]),
        "z_vi": Field("D", table["Z_VI"]),
        "zWarning": Field("J", 0),
        "Mi_z2": Field("D", _MISSING, "mag"),
        "NspecOBS": Field("J", _MISSING),
        "SNR_spec": Field("D", table["SN"]),
        "BAL_flag": Field("J", table["BAL_FLAG_VI"]),
    }


def _write_quasars(
    spool: IO[bytes], fields: dict[str, Field], quasars: Counter[int], folder: Path
) -> list[Path]:
    """Write the rows in the spool, of which `fields` are the last ones, by thirds of the nights."""
    first, last = min(quasars), max(quasars)
    dtype = records(fields).dtype
    for third, (name, paper) in enumerate(_QUASAR_FILES.items()):
        start, stop = (first + -(-(last - first + 1) * k // 3) for k in (third, third + 1))
        n_rows = sum(count for night, count in quasars.items() if start <= night < stop)
        with published(folder / name) as stream:
            stream.write(primary_header([("REFERENC", paper, "whose columns these are")]))
            stream.write(table_header(fields, n_rows, "LAMOST_QSO"))
            spool.seek(0)
            for content in iter(partial(spool.read, 16_384 * dtype.itemsize), b""):
                rows = np.frombuffer(content, dtype)
                stream.write(rows[(start - 1 <= rows["MJD"]) & (rows["MJD"] < stop - 1)].tobytes())
            stream.write(bytes(-n_rows * dtype.itemsize % BLOCK))
    return [folder / name for name in _QUASAR_FILES]
