"""Model: a trained network with all it needs to turn spectra into catalogue rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from broadline.calibration import Calibration, bal_features, quasar_features
from broadline.decision import Decision, decide
from broadline.errors import BroadlineError, ModelError
from broadline.finders import decode, errors, read_at
from broadline.flags import UNCLASSIFIED, Flag, mark
from broadline.lines import Line
from broadline.networks.architecture import Outputs, Parameters
from broadline.networks.vgg import Score
from broadline.recipe import Recipe
from broadline.representation import Representation, Represented
from broadline.runtime import OnnxRuntime, Precision, Runtime, TorchRuntime
from broadline.spectra import Spectra

if TYPE_CHECKING:
    import pyarrow as pa
    from astropy.table import Table

__all__ = [
    "Found",
    "Model",
    "Recipe",
    "save_model",
]

_KEY, _DIGEST_KEY, _BLANK = "broadline", "broadline_digest", "0" * 64
# The first bytes of files that people hand over as models by mistake, or that must never be loaded.
_FOREIGN = {
    b"PK\x03\x04": "it is a zip archive (a torch or .keras file?); broadline loads no pickled code",
    b"\x80\x02": "it is a pickle; broadline loads no pickled code",
    b"\x80\x03": "it is a pickle; broadline loads no pickled code",
    b"\x80\x04": "it is a pickle; broadline loads no pickled code",
    b"\x80\x05": "it is a pickle; broadline loads no pickled code",
    b"SIMPLE  =": "it is a FITS file; spectra are given without --model",
}
# Scale and scatter of errors without a calibration.
_AS_IT_IS = ((1.0, 1.0), (0.0, 0.0))


class Found(NamedTuple):
    """What the finders say of some spectra.

    Attributes
    ----------
    c : ndarray of float32, shape (n_spectra, n_lines)
        Confidence in each line.
    z : ndarray of float64, shape (n_spectra, n_lines)
        The redshift it implies.
    z_err : ndarray of float64, shape (n_spectra, n_lines), optional
        Its error as the network puts it, where it does.
    """

    c: NDArray[np.float32]
    z: NDArray[np.float64]
    z_err: NDArray[np.float64] | None


class Model:
    """A trained network that turns spectra into catalogue rows.

    Parameters
    ----------
    content : bytes
        A model file's content.
    precision : {"fp32", "bf16"}
        fp32 runs in ONNX Runtime; bf16 in torch, faster on processors that have it.
    threads : int, optional
        Threads the network may use; all cores if not given.

    Attributes
    ----------
    recipe : Recipe
    rule : Rule
        The decision rule in force; the recipe's, unless replaced.
    sha256 : str
        Of the file's content.

    Raises
    ------
    ModelError
        If the content is not a broadline model, or is damaged.
    """

    def __init__(self, content: bytes, precision: Precision = "fp32", threads: int | None = None) -> None:
        for magic, reason in _FOREIGN.items():
            if content.startswith(magic):
                raise ModelError(reason)
        onnx = OnnxRuntime(content, threads)
        if _KEY not in onnx.metadata:
            raise ModelError("it is an ONNX model of another program: it has no broadline card")
        if onnx.metadata.get(_DIGEST_KEY) != _digest(content, onnx.metadata.get(_DIGEST_KEY, "")):
            raise ModelError("its bytes do not match its checksum: the file is damaged, fetch it again")
        try:
            self.recipe = Recipe.from_json(onnx.metadata[_KEY])
        except (ValueError, TypeError, KeyError, BroadlineError) as error:
            raise ModelError(f"its card cannot be read ({error})") from error
        self.content = content
        self.precision = precision
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.rule = self.recipe.rule
        self.representation = self.recipe.representation
        onnx.config = self.recipe.network
        self.run: Runtime = onnx
        if precision != "fp32":
            self.run = TorchRuntime(self.recipe.network, content, precision, threads)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.recipe.name

    @property
    def lines(self) -> tuple[Line, ...]:
        """The lines its finders look for, in order."""
        return self.recipe.lines

    def fill_empty_bins(self, empty: str) -> None:
        """Choose what bins without data hold: "zero" or "as-published" (see `Representation`)."""
        fields = self.representation.to_dict() | {"empty": empty}
        try:
            self.representation = Representation.from_dict(fields)
        except ValueError as error:
            raise ModelError(str(error)) from error

    def predict(self, values: NDArray[np.float32]) -> Found:
        """Return what the finders say of represented spectra.

        Parameters
        ----------
        values : ndarray of float32, shape (n_spectra, grid.size) or (n_spectra, 2, grid.size)
            As the model's representation gives them.

        Raises
        ------
        ModelError
            If the network has no line finders.
        """
        assert self.recipe.finders
        output: Outputs[NDArray[np.float32]] = self.run(np.ascontiguousarray(values, dtype=np.float32))
        grid = self.representation.grid
        c, z = decode(output.confidence, output.offset, self.lines, grid)
        if output.log_sigma is None:
            return Found(c, z, None)
        # Networks that tell errors are asked for broad absorption where the redshift puts CIV, nowhere else.
        emission = np.flatnonzero([not line.bal for line in self.lines])
        z_best = z[np.arange(len(z)), emission[c[:, emission].argmax(axis=1)]]
        for i, line in enumerate(self.lines):
            if line.bal:
                c[:, i], z[:, i] = read_at(output.confidence[:, i], z_best, line, grid), z_best
        return Found(c, z, errors(output.confidence, output.offset, output.log_sigma, self.lines, grid))

    def judge(self, values: NDArray[np.float32]) -> tuple[Found, Decision]:
        """Return what the finders say of represented spectra, and the verdict by the rule in force."""
        found = self.predict(values)
        calibration = self.recipe.calibration
        scale, scatter = (calibration.scale, calibration.scatter) if calibration else _AS_IT_IS
        return found, decide(found.c, found.z, self.lines, self.rule, found.z_err, scale, scatter)

    def classify_batch(self, spectra: Spectra) -> pa.Table:
        """Return the catalogue rows of a batch, one for each spectrum, in order."""
        return self.classify_represented(self.representation(spectra), spectra.ids)

    def classify_represented(self, represented: Represented, ids: Mapping[str, NDArray[Any]]) -> pa.Table:
        """Return the catalogue rows of spectra in this model's representation, of whatever grids they were.

        Parameters
        ----------
        represented : Represented
            As `representation` gives it; its flags are added to.
        ids : mapping of str to ndarray
            Identity, as `Spectra.ids`.
        """
        from broadline.catalogue import rows

        flags = represented.flags
        able = (flags & UNCLASSIFIED) == 0
        values = represented.values  # 0 where there is nothing to classify: `rows` leaves those out
        if self.lines:
            results, conflict = self._lines_found(values)
            mark(flags, conflict & able, Flag.CONFLICTING_LINES)
        else:
            probability = self.probability(values)
            results = {"IS_QSO": probability > self.rule.c_th, "P_QSO": probability}
        names = [line.name for line in self.lines]
        return rows(ids, flags, represented.sn_median, results, names)

    def probability(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probability of a quasar from a network without line finders, shape (n_spectra,)."""
        score: Score[NDArray[np.float32]] = self.run(np.ascontiguousarray(values, dtype=np.float32))
        return score.probability

    def _lines_found(self, values: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
        """Return the columns that come from lines, and which spectra have lines in conflict."""
        (c, z, z_err), verdict = self.judge(values)
        names = np.array([line.name for line in self.lines], dtype=object)
        results: dict[str, NDArray[Any]] = {
            "IS_QSO": verdict.is_qso,
            "Z": verdict.z,
            "BEST_LINE": names[verdict.best_line],
            "N_LINES": verdict.n_lines,
            "IS_BAL": verdict.is_bal,
            "NEEDS_VI": verdict.needs_vi,
        }
        if z_err is not None:
            results["Z_ERR"] = verdict.z_err
        if self.recipe.calibration:
            results |= self._probabilities(self.recipe.calibration, c, z, verdict)
        for i, name in enumerate(names):
            results[f"C_{name}"], results[f"Z_{name}"] = c[:, i], z[:, i]
        return results, verdict.conflict

    def _probabilities(
        self, calibration: Calibration, c: NDArray[np.float32], z: NDArray[np.float64], verdict: Decision
    ) -> dict[str, NDArray[Any]]:
        emission = np.array([not line.bal for line in self.lines])
        features = quasar_features(c[:, emission], z[:, emission], verdict.z, verdict.z_err)
        out = {
            "P_QSO": calibration.probability("qso", features),
            "P_Z": calibration.probability("z", features),
        }
        if not emission.all():
            out["P_BAL"] = calibration.probability("bal", bal_features(c[:, ~emission].max(axis=1)))
        return out

    def classify(self, spectra: Spectra | Iterable[Spectra]) -> Table:
        """Return the catalogue of some spectra as an astropy Table, one row a spectrum, in input order.

        Parameters
        ----------
        spectra : Spectra or iterable of Spectra
            For instance what `broadline.read` yields; batches are taken one at a time.
        """
        from broadline.catalogue import to_astropy

        batches = [spectra] if isinstance(spectra, Spectra) else spectra
        return to_astropy([self.classify_batch(batch) for batch in batches], [x.name for x in self.lines])


def save_model(path: Path, recipe: Recipe, parameters: Parameters) -> Path:
    """Write a model file, aside first and then renamed; return its path.

    Raises
    ------
    ValueError
        If the parameters do not fit the recipe.
    """
    content = serialise(recipe, parameters)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def serialise(recipe: Recipe, parameters: Parameters) -> bytes:
    """Return a model file's content: ONNX with the recipe and a checksum in its metadata."""
    from broadline.networks.graph import build

    content = build(recipe.network, parameters, {_KEY: recipe.to_json(), _DIGEST_KEY: _BLANK})
    if content.count(_BLANK.encode()) != 1:
        raise ValueError("the checksum's place in the file is not unique")
    return content.replace(_BLANK.encode(), _digest(content, _BLANK).encode())


def _digest(content: bytes, present: str) -> str:
    """Return the SHA-256 of `content` with the checksum `present` in it blanked out."""
    return hashlib.sha256(
        content.replace(present.encode(), _BLANK.encode(), 1) if present else content
    ).hexdigest()
