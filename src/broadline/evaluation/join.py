"""From catalogues and a truth table to a study: who is who, who is left out, and what cannot be told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from broadline import __version__
from broadline.decision import CONFLICT_KMS, Rule, velocity
from broadline.errors import ModelError, UsageError
from broadline.evaluation.catalogues import Catalogue, read_catalogue
from broadline.evaluation.sample import Sample
from broadline.evaluation.shares import Floats, Ints, Mask
from broadline.evaluation.study import Counts, Study
from broadline.grid import Grid
from broadline.lines import LINES, Line
from broadline.networks.architecture import QuasarNETConfig
from broadline.truth import CLASSES, Truth, match, names_of, read_truth_table

if TYPE_CHECKING:
    from broadline.model import Model

__all__ = ["read_study"]

# Names, and the columns that they are made of; the first two are names of spectra, the others of objects.
_PARTS: Mapping[str, tuple[str, ...]] = {
    "PLATE-MJD-FIBERID": ("PLATE", "MJD", "FIBERID"),
    "OBSID": ("OBSID",),
    "TARGETID": ("TARGETID",),
    "OBJID": ("OBJID",),
}
# As people know spectra: best first.
_CALLED = ("PLATE-MJD-FIBERID", "OBJID", "OBSID", "TARGETID")


def read_study(
    catalogues: Sequence[Path], truth: Path, *, splits: Path | None = None, keep_ancillary: bool = False
) -> Study:
    """Return verdicts beside the truth.

    Of a simulated survey the truth is what its inspector said, as it would be of a real one.

    Parameters
    ----------
    catalogues : sequence of Path
        One for each split, or a single one (`catalogues.read_catalogue`).
    truth : Path
        See `truth.read_truth_table`.
    splits : Path, optional
        What `training.splits.write_splits` wrote. The model of catalogue i learnt from the training part of
        SPLIT_i, so of its rows only objects of the test part, or without one of the validation part,
        are kept that are not in the training part too.
    keep_ancillary : bool
        Keep targets of ancillary programmes, which Busca & Balland (2018), section 2, leave out.

    Raises
    ------
    UsageError
        If a file cannot be read, truth and a catalogue have no spectrum in common, nothing is left of a
        catalogue, it holds a spectrum twice with different verdicts, or catalogues differ in their lines.
    """
    if not catalogues:
        raise UsageError("there is no catalogue to evaluate; give at least one")
    known = read_truth_table(truth, inspected=True)
    held = [None] * len(catalogues) if splits is None else _validation(splits, len(catalogues))
    parts = [
        _joined(read_catalogue(path), known, objects, keep_ancillary)
        for path, objects in zip(catalogues, held, strict=True)
    ]
    read = [part.catalogue for part in parts]
    _refuse_different_lines(read)
    model = next((found for found in map(_model_of, read) if found), None)
    study = Study(
        sample=_sample(parts, known),
        split=np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts]),
        names=np.concatenate([_names(part.catalogue, part.rows) for part in parts]),
        source=np.concatenate([part.catalogue.source[part.rows] for part in parts]),
        row=np.concatenate([part.catalogue.row[part.rows] for part in parts]),
        counts=_counted(parts, known),
        ids={
            name: np.concatenate([part.catalogue.ids[name][part.rows] for part in parts])
            for name in set.intersection(*(set(catalogue.ids) for catalogue in read))
        },
        rule=next((catalogue.rule for catalogue in read if catalogue.rule), Rule()),
        lines=tuple(_lines(read[0], model)),
        simulated=known.simulated,
        other_z={name: values[_truth_rows(parts)] for name, values in known.other_z.items()},
        boxes=_boxes(model),
        about=_about(read, known, splits),
    )
    return replace(study, absent=tuple(_absent(study, known, read)))


class _Part(NamedTuple):
    """A catalogue, the rows of it that are kept, and what the truth says of them."""

    catalogue: Catalogue
    rows: Ints
    truth_rows: Ints
    seen: Ints  # rows of the truth, those of spectra that are not kept too
    counts: Counts


def _truth_rows(parts: Sequence[_Part]) -> Ints:
    return np.concatenate([part.truth_rows for part in parts])


# ---- which rows


def _validation(path: Path, n: int) -> list[Ints]:
    """Return the objects that each of `n` models has not learnt from."""
    from broadline.training.splits import read_splits

    try:
        objects = np.asarray(pq.read_table(path, columns=["OBJECT"])["OBJECT"])
    except (OSError, pa.ArrowException, KeyError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{path} cannot be read as a file of splits ({said})") from error
    splits = read_splits(path, objects)
    if len(splits) < n:
        raise UsageError(f"{path} holds {len(splits)} splits, for {n} catalogues; give one of each split")
    # Splits by spectrum have objects in several parts: what was learnt from is never scored on.
    return [np.setdiff1d(objects[split.held_out], objects[split.training]) for split in splits[:n]]


def _joined(catalogue: Catalogue, known: Truth, held: Ints | None, keep_ancillary: bool) -> _Part:
    """Return the rows of a catalogue to keep, and count the others, each for the first reason there is."""
    row = match(known, catalogue.ids)
    repeated = _repeated(catalogue)
    matched = ~repeated & (row >= 0)
    ancillary = matched & known.ancillary[row] & (not keep_ancillary)
    learnt = np.zeros(len(row), dtype=bool)
    if held is not None:
        learnt = matched & ~ancillary & ~np.isin(known.object[row], held)
    rows = np.flatnonzero(matched & ~ancillary & ~learnt)
    counts = Counts(
        n_rows=len(row),
        n_unmatched=int((~repeated & (row < 0)).sum()),
        n_ancillary=int(ancillary.sum()),
        n_learnt=int(learnt.sum()),
        n_unclassified=int(catalogue.unclassified[rows].sum()),
        n_repeated=int(repeated.sum()),
    )
    if not len(rows):
        raise UsageError(_nothing_left(catalogue, known, counts))
    return _Part(catalogue, rows, row[rows], row[matched], counts)


def _nothing_left(catalogue: Catalogue, known: Truth, counts: Counts) -> str:
    if counts.n_learnt:
        return (
            f"{catalogue.path} holds nothing but objects that its model may have learnt from: none of "
            f"{counts.n_learnt:,} spectra is in the validation part of its split; give the catalogue of that "
            "split, or the splits it belongs to"
        )
    if counts.n_ancillary:
        return (
            f"all {counts.n_ancillary:,} spectra of {catalogue.path} that {known.source} knows are of "
            "ancillary programmes; keep those, or give a catalogue of others"
        )
    return (
        f"{known.source} knows none of the {len(catalogue):,} spectra of {catalogue.path} (its own "
        f"{len(known):,} it names by {known.by}); give the truth of these"
    )


def _repeated(catalogue: Catalogue) -> Mask:
    """Return which rows are of a spectrum that an earlier row has, and agree with it.

    Raises
    ------
    UsageError
        If they do not agree: not the same class, or quasars at redshifts more than 6000 km/s apart.
    """
    spectrum = _spectra(catalogue)
    _, first, inverse = np.unique(spectrum, return_index=True, return_inverse=True)
    base = first[inverse.reshape(-1)]
    repeated = base != np.arange(len(base))
    called, z = catalogue.called, catalogue.z
    apart = (np.isnan(z) != np.isnan(z[base])) | (np.abs(velocity(z, z[base])) > CONFLICT_KMS)
    if (differ := np.flatnonzero(repeated & ((called != called[base]) | (called & apart)))).size:
        name = _names(catalogue, differ[:1])[0]
        raise UsageError(
            f"{catalogue.path} contradicts itself in {len(differ):,} rows: it has {name} in rows "
            f"{base[differ[0]]} and {differ[0]} with different verdicts; leave one row of each spectrum"
        )
    return np.asarray(repeated)


def _spectra(catalogue: Catalogue) -> Ints:
    """Return a number for each row, the same for rows of the same spectrum.

    TARGETID and OBJID name objects: they tell spectra apart only where no file and row do.
    """
    n = len(catalogue)
    number, left = np.arange(n), np.ones(n, dtype=bool)

    def settle(keys: NDArray[Any], named: Mask, offset: int) -> None:
        rows = left & named
        number[rows] = offset * n + np.unique(keys[rows], return_inverse=True)[1].reshape(-1)
        left[rows] = False

    for i, by in enumerate(_PARTS, 1):
        if by == "TARGETID" and left.any() and (catalogue.row >= 0).any():
            files = pa.array(catalogue.source).dictionary_encode().indices.to_numpy().astype(np.int64)
            settle(files * (catalogue.row.max() + 1) + catalogue.row, catalogue.row >= 0, len(_PARTS) + 1)
        if left.any() and catalogue.ids.keys() >= set(_PARTS[by]):
            settle(*names_of(by, catalogue.ids), i)
    return number


def _names(catalogue: Catalogue, rows: Ints) -> NDArray[np.str_]:
    """Return what the spectra of some rows are called."""
    names = pa.nulls(len(rows), pa.string())
    for by in _CALLED:
        if catalogue.ids.keys() >= set(_PARTS[by]):
            ids = {name: catalogue.ids[name][rows] for name in _PARTS[by]}
            words = [pa.array(ids[name]).cast(pa.string()) for name in _PARTS[by]]
            if by == "PLATE-MJD-FIBERID":
                words[2] = pc.utf8_lpad(words[2], 4, "0")
            name = pc.binary_join_element_wise(*words, "-")
            names = pc.coalesce(names, pc.if_else(pa.array(names_of(by, ids)[1]), name, None))
    numbers = pc.binary_join_element_wise("row", pa.array(rows).cast(pa.string()), " ")
    return np.asarray(pc.coalesce(names, numbers)).astype(np.str_)


# ---- what they say


def _refuse_different_lines(read: Sequence[Catalogue]) -> None:
    for catalogue in read[1:]:
        ours, others = ([*c.lines, *filter(None, [c.bal_line])] for c in (read[0], catalogue))
        if ours != others:
            said = (", ".join(lines) or "none" for lines in (ours, others))
            raise UsageError(
                f"{read[0].path} and {catalogue.path} have confidences of different lines ({next(said)}; "
                f"{next(said)}); evaluate them apart"
            )


def _sample(parts: Sequence[_Part], known: Truth) -> Sample:
    """Return the rows of all catalogues, one after another; columns that nobody has are None."""
    rows = _truth_rows(parts)

    def joined(name: str) -> NDArray[Any] | None:
        values = [getattr(part.catalogue, name) for part in parts]
        if any(value is None for value in values):
            return None
        return np.concatenate([value[part.rows] for value, part in zip(values, parts, strict=True)])

    def number(name: str) -> Floats | None:
        given = [part.catalogue.numbers.get(name) for part in parts]
        if all(values is None for values in given):
            return None
        return np.concatenate(
            [
                np.full(len(part.rows), np.nan) if values is None else values[part.rows]
                for values, part in zip(given, parts, strict=True)
            ]
        )

    return Sample(
        z=np.concatenate([part.catalogue.z[part.rows] for part in parts]),
        truth=np.array(CLASSES)[known.kind[rows]],
        z_truth=known.z[rows],
        called=joined("called"),
        c=joined("c"),
        c_bal=joined("c_bal"),
        confidence=known.confidence[rows].astype(np.int64) if known.rated else None,
        bal=known.bal_flag[rows].astype(np.int64) if (known.bal_flag >= 0).any() else None,
        balnicity=(known.balnicity[rows].astype(np.float64) if np.isfinite(known.balnicity).any() else None),
        object_id=known.object[rows],
        p_qso=number("p_qso"),
        p_z=number("p_z"),
        p_bal=number("p_bal"),
        z_err=number("z_err"),
        sn=number("sn"),
        magnitude=None if known.magnitude is None else known.magnitude[rows].astype(np.float64),
    )


def _counted(parts: Sequence[_Part], known: Truth) -> Counts:
    total = {field.name: sum(getattr(part.counts, field.name) for part in parts) for field in fields(Counts)}
    unseen = np.ones(len(known), dtype=bool)
    for part in parts:
        unseen[part.seen] = False
    return Counts(**total | {"n_unseen": int(unseen.sum())})


def _model_of(catalogue: Catalogue) -> Model | None:
    """Return the model that made a catalogue, if it can be found by its name or where it was then."""
    from broadline.named_models import list_models, load_model

    wanted = catalogue.meta.get("model_sha256")
    if not wanted:
        return None
    places = [list_models().get(catalogue.meta.get("model", ""))]
    command = catalogue.meta.get("command", "").split()
    if "--model" in command[:-1]:
        places.append(Path(command[command.index("--model") + 1]))
    try:
        for path in places:
            if path and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == wanted:
                return load_model(path)
    except (OSError, ModelError):
        return None
    return None


def _boxes(model: Model | None) -> tuple[Grid, int] | None:
    if model is None or not isinstance(model.recipe.network, QuasarNETConfig):
        return None
    return model.representation.grid, model.recipe.network.n_boxes


def _lines(catalogue: Catalogue, model: Model | None) -> Iterator[Line]:
    table = LINES | ({line.name: line for line in model.lines} if model else {})
    for name in catalogue.lines:
        yield table.get(name, Line(name, float("nan")))
    if catalogue.bal_line:
        yield table.get(catalogue.bal_line, Line(catalogue.bal_line, float("nan"), bal=True))


def _about(read: Sequence[Catalogue], known: Truth, splits: Path | None) -> dict[str, str]:
    """Return the provenance of a study; what several catalogues say alike is said once."""
    about = {
        "catalogues": ", ".join(catalogue.path.name for catalogue in read),
        "truth": f"{known.source.name} ({known.layout})",
    }
    if splits is not None:
        about["splits"] = splits.name
    said = {"model": "model", "model_sha256": "model SHA-256", "rule": "rule", "version": "classified by"}
    for key, words in said.items():
        if values := dict.fromkeys(filter(None, (catalogue.meta.get(key) for catalogue in read))):
            about[words] = ", ".join(f"broadline {v}" if key == "version" else v for v in values)
    return about | {"evaluated by": f"broadline {__version__}"}


# ---- what cannot be told


def _absent(study: Study, known: Truth, read: Sequence[Catalogue]) -> Iterator[str]:
    """Yield what cannot be told and why."""
    sample, truth = study.sample, known.source.name
    yield from _unknown_truth(study, known)
    if not all(catalogue.rule for catalogue in read):
        yield "the rule by which quasars were called: a catalogue does not say it; the nominal one is assumed"
    if sample.c is None:
        yield "scores against the threshold: the catalogue has no confidences of lines"
    if sample.c_bal is None:
        yield "scores of broad absorption: the catalogue has no confidence in it"
    for name in ("p_qso", "p_z", "p_bal"):
        if getattr(sample, name) is None:
            yield f"the reliability of {name.upper()}: the catalogue has no such probability"
    if sample.z_err is None:
        yield "how good the errors of redshifts are: the catalogue has no Z_ERR"
    if sample.sn is None:
        yield "scores against signal-to-noise ratio: the catalogue has no SN_MEDIAN"
    if sample.magnitude is None:
        yield f"scores against magnitude: {truth} has no PSFMAG"
    if not study.other_z:
        yield f"the scatter of other redshifts: {truth} has none beside its own"
    if study.boxes is None:
        yield "the ripple at the box period: the model that made the catalogue is not at hand"


def _unknown_truth(study: Study, known: Truth) -> Iterator[str]:
    sample, truth = study.sample, known.source.name
    firm = sample.truth[sample.firm]
    if not len(firm):
        yield f"purity and completeness: {truth} is sure of none of these spectra"
    elif study.quasars_only:
        yield f"purity: all that {truth} knows of these spectra are quasars, so none can be mistaken for one"
    elif not (firm == "QSO").any():
        yield f"completeness: {truth} knows no quasar among these spectra"
    if sample.confidence is None:
        yield f"spectra of low confidence: {truth} does not rate its labels, and all count as secure"
    if sample.bal is None and sample.balnicity is None:
        yield f"broad absorption: {truth} has neither tags nor balnicities"
    elif sample.bal is None:
        yield f"tags of broad absorption: {truth} has balnicities alone"
    elif sample.balnicity is None:
        yield f"balnicities: {truth} has tags of broad absorption alone"
    if (known.object < 0).all() and known.by != "TARGETID":
        yield f"which spectra are of the same object: {truth} has no THING_ID"
    if sample.n_lost:
        yield f"the redshift of {sample.n_lost:,} secure quasars and galaxies: they are not scored"
    if n := int((sample.quasar & np.isnan(sample.z)).sum()):
        yield f"the redshift of {n:,} spectra that are called quasars: they count as wrong"
