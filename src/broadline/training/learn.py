"""Learning from verdicts: a model is tuned on what an expert said, and let go if it got worse nowhere.

What `broadline learn` does. The folder of a run holds the spectra as a training set (``set``), the training
(``tuning``), its outcome calibrated (``candidate.onnx``), what was gained (``gain.txt``, ``gain.json``) and,
if nothing got worse, the model (``model.onnx``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from broadline import __version__
from broadline.errors import UsageError
from broadline.evaluation.gate import LEVEL, Place, overall, places, setbacks
from broadline.files import write_aside
from broadline.model import Model
from broadline.training.dataset import PreparedSet
from broadline.training.fit import Progress
from broadline.training.gain import Gain, gain, judged
from broadline.training.manifest import Summary
from broadline.training.prepare import prepare
from broadline.training.presets import Preset
from broadline.training.rehearsal import Rehearsal, of_set
from broadline.training.tune import (
    CANDIDATE,
    EPOCHS,
    Parts,
    divided,
    open_verdicts,
    refuse_one_sided,
    tune,
    tuning_preset,
)
from broadline.truth import FIRM, QSO, read_truth_table

__all__ = ["Learnt", "compared", "learn"]

_REQUEST, _MODEL, _TEXT, _GAIN = "learn.json", "model.onnx", "gain.txt", "gain.json"


class Learnt(NamedTuple):
    """How a run ended.

    Attributes
    ----------
    candidate : Path
        What was learnt.
    model : Path, optional
        The same, if it got worse nowhere.
    text : str
        What was gained, in words.
    """

    candidate: Path
    model: Path | None
    text: str


def learn(
    start: Model,
    verdicts: Path,
    names: Sequence[str | Path],
    folder: Path,
    rehearsal_of: Callable[[Preset], Rehearsal],
    *,
    preset: str | None = None,
    archive: str | None = None,
    workers: int | None = None,
    epochs: int = EPOCHS,
    seed: int = 0,
    precision: str | None = None,
    on_unit: Callable[[Summary, float], None] | None = None,
    on_step: Callable[[Progress], None] | None = None,
) -> Learnt:
    """Tune a model on verdicts and say what was gained; go on where an earlier run in the folder was stopped.

    Parameters
    ----------
    start : Model
    verdicts : Path
        A truth table (`truth.read_truth_table`); firm rows are learnt from, and those of a control sample
        (`Truth.control`) only compared on.
    names : sequence of str or Path
        The spectra: files, folders, globs, ``@LIST``.
    folder : Path
        New or empty, or one where the same was begun.
    rehearsal_of : callable
        From the preset, what is rehearsed.
    preset : str, optional
        How the model was trained; what its card says if not given.
    archive, workers, on_unit
        As `prepare.prepare` takes them.
    epochs, seed, precision, on_step
        As `fit` takes them.

    Raises
    ------
    UsageError
        If the verdicts hold no firm one, or no quasar, or nothing else, or their spectra are not there; the
        model is not one that can be tuned (`tuning_preset`); or the folder holds something else.
    """
    how = tuning_preset(start, preset, epochs)
    n_verdicts = _checked(verdicts)
    rehearsal = rehearsal_of(how)
    digest = hashlib.sha256(verdicts.read_bytes()).hexdigest()
    request = {
        "version": __version__,
        "verdicts": digest,
        "model": start.sha256,
        "preset": json.loads(json.dumps(how.to_dict())),
        "rehearsal": rehearsal.about,
        "seed": seed,
    }
    _claim(folder, request)
    if (folder / _GAIN).exists():
        return _finished(folder)
    summary = prepare(
        names,
        verdicts,
        folder / "set",
        how.representation,
        keep_ancillary=True,
        archive=archive,
        workers=workers,
        on_unit=on_unit,
    )
    try:
        whole = open_verdicts(folder / "set", how)
        parts = divided(whole, seed)
        about = f"{verdicts.name} (SHA-256 {digest})"
        tuned = tune(start, how, whole, parts, rehearsal, folder, about, seed, precision, on_step)
        gains, tried = compared(start, tuned.model, whole, parts, rehearsal)
        worse = setbacks(tried)
        said = _said(tuned.note, n_verdicts, summary, parts, gains, tried, worse)
        if not worse:
            write_aside(folder / _MODEL, tuned.model.content)
        write_aside(folder / _TEXT, said.encode())
        fields = {
            "shipped": not worse,
            "gains": {name: each.to_dict() for name, each in gains.items()},
            "places": [asdict(each) | {"loss": each.loss, "p_value": each.p_value} for each in tried],
            "worse": [each.what for each in worse],
        }
        write_aside(folder / _GAIN, (json.dumps(fields, indent=1) + "\n").encode())
    except OSError as error:
        raise UsageError(
            f"cannot write into {folder} ({error}); once this is mended the same command goes on"
        ) from error
    return _finished(folder)


def _checked(path: Path) -> int:
    """Return how many verdicts there are; refuse those that teach nothing, before any spectrum is read."""
    truth = read_truth_table(path)
    firm = truth.confidence == FIRM
    if not firm.any():
        raise UsageError(
            f"{path} holds no firm verdict (confidence {FIRM}) among its {len(truth):,}: rule on spectra of "
            "which you are sure"
        )
    refuse_one_sided(str(path), truth.kind[firm & ~truth.control] == QSO)
    return len(truth)


def _claim(folder: Path, request: dict[str, Any]) -> None:
    """Make a folder that of a request."""
    path = folder / _REQUEST
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a new folder")
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} is damaged ({error}); give a new folder") from error
        if different := [name for name, value in request.items() if found.get(name) != value]:
            raise UsageError(
                f"folder {folder} holds another run (not the same: {', '.join(different)}); give a new folder"
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"folder {folder} is not empty; give a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_aside(path, (json.dumps(request, indent=1) + "\n").encode())
    except OSError as error:
        raise UsageError(f"cannot write into {folder} ({error}); give another folder") from error


# ---- what came of it


def compared(
    start: Model, candidate: Model, verdicts: PreparedSet, parts: Parts, rehearsal: Rehearsal
) -> tuple[dict[str, Gain], list[Place]]:
    """Return what was gained on held-out verdicts, control sample and reference; and all places of the gate.

    These are all places of the reference, and two of the held-out verdicts.
    """
    rules, gains, tried = (start.rule, candidate.rule), dict[str, Gain](), list[Place]()
    data = {
        "held-out verdicts": lambda: of_set(verdicts.subset(parts.test)),
        "control sample": lambda: of_set(verdicts.subset(parts.control)),
        "reference": rehearsal.reference,
    }
    for name, spectra in data.items():
        before, after = (judged(model, spectra()) for model in (start, candidate))
        if before is None or after is None:
            continue
        gains[name] = gain(before, after, rules)
        if name == "reference":
            tried += places(before, after, rules)
        elif name == "held-out verdicts":
            tried += overall(name, before, after)
    return gains, tried


def _said(
    note: str,
    n_verdicts: int,
    summary: Summary,
    parts: Parts,
    gains: dict[str, Gain],
    tried: Sequence[Place],
    worse: Sequence[Place],
) -> str:
    """Return what to tell of a run."""
    lines = [
        f"{n_verdicts:,} verdicts, of {len(summary):,} of the spectra; {summary.n_doubtful:,} not firm, "
        f"{len(parts.control):,} of a control sample, {len(parts.learnt):,} learnt from, "
        f"{len(parts.stopping):,} to stop and calibrate",
        note,
    ]
    for name, each in gains.items():
        lines += ["", *each.lines(name)]
    lines.append("")
    if not worse:
        said = f"worse nowhere, of {len(tried)} places, at a level of {100 * LEVEL:g} % in all"
        return "\n".join([*lines, said])
    lines.append(f"not shipped, for it got worse (of {len(tried)} places, level {100 * LEVEL:g} % in all):")
    for place in worse:
        numbers = f"{place.lost:,} lost and {place.won:,} won of {place.n:,}"
        lines.append(f"  {place.what}: {numbers} (-{100 * place.loss:.2f} %, p {place.p_value:.1g})")
    return "\n".join(lines)


def _finished(folder: Path) -> Learnt:
    shipped = json.loads((folder / _GAIN).read_text())["shipped"]
    model = folder / _MODEL if shipped else None
    return Learnt(folder / CANDIDATE, model, (folder / _TEXT).read_text())
