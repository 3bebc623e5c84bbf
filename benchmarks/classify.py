"""Speed and memory of classifying, side by side with QuasarNP in one run.

    python benchmarks/classify.py [--quasarnp CHECKOUT] [--weights test_weights.h5 --spectra DATA/real]
                                  [--plates 20] [--specs 4000] [-o docs/speed.md]

Makes spPlate-like files (1000 spectra of 4600 pixels) and spec files in a temporary folder, classifies them
with the paper-size network (100 filters, random weights: time does not depend on their values) through the
command line, and prints a table. QuasarNP's own code, if a checkout is given, reads, rebins, runs and decodes
the same plates. ``--weights`` and ``--spectra`` add how many decisions bfloat16 changes in a trained network.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from astropy.io import fits

from broadline.decision import Rule
from broadline.lines import LEGACY_LINES
from broadline.model import save_model
from broadline.named_models import load_model
from broadline.networks.architecture import Parameters, QuasarNETConfig
from broadline.recipe import Recipe
from broadline.representation import Representation
from broadline.runtime import Runtime
from markers import write_between

N_PIXELS, FIRST = 4600, 35530


def random_parameters(config: QuasarNETConfig, seed: int = 0) -> Parameters:
    """Return parameters of a plausible size, so that no activation overflows or dies."""
    rng = np.random.default_rng(seed)
    parameters = {}
    for name, shape in config.shapes().items():
        if name.endswith(("running_var", "norm.weight")) or (
            name.startswith("norms") and name.endswith(".weight")
        ):
            value = np.ones(shape)
        elif name.endswith(".weight"):
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        else:
            value = np.zeros(shape)
        parameters[name] = value.astype(np.float32)
    return parameters


def write_plate(path: Path, seed: int) -> None:
    """Write a spPlate-like file: flux, ivar and masks of 1000 fibres, and a plug map."""
    rng = np.random.default_rng(seed)
    shape = (1000, N_PIXELS)
    flux = rng.normal(3, 1, shape).astype(np.float32)
    ivar = rng.gamma(4, 0.25, shape).astype(np.float32)
    primary = fits.PrimaryHDU(flux)
    primary.header.update(COEFF0=FIRST * 1e-4, COEFF1=1e-4, PLATEID=seed, MJD=55000)
    plug = fits.BinTableHDU.from_columns(
        [
            fits.Column("FIBERID", "J", array=np.arange(1, 1001)),
            fits.Column("RA", "D", array=rng.uniform(0, 360, 1000)),
            fits.Column("DEC", "D", array=rng.uniform(-5, 60, 1000)),
            fits.Column("OBJTYPE", "16A", array=np.full(1000, "QSO")),
        ],
        name="PLUGMAP",
    )
    masks = [fits.ImageHDU(np.zeros(shape, np.int32), name=name) for name in ("ANDMASK", "ORMASK")]
    fits.HDUList([primary, fits.ImageHDU(ivar, name="IVAR"), *masks, plug]).writeto(path)


def write_specs(folder: Path, count: int) -> None:
    """Write spec-like lite files: one spectrum each, 32 bytes a pixel, and a row of results."""
    rng = np.random.default_rng(1)
    dtype = [(n, ">f4") for n in ("flux", "loglam", "ivar")] + [("and_mask", ">i4"), ("or_mask", ">i4")]
    dtype += [(n, ">f4") for n in ("wdisp", "sky", "model")]
    pixels = np.zeros(N_PIXELS, dtype)
    pixels["loglam"] = (FIRST + np.arange(N_PIXELS)) * 1e-4
    row = np.zeros(1, [("CLASS", "S6"), ("OBJTYPE", "S16"), ("Z", ">f4"), ("ZWARNING", ">i4")])
    for i in range(count):
        pixels["flux"], pixels["ivar"] = rng.normal(3, 1, N_PIXELS), rng.gamma(4, 0.25, N_PIXELS)
        primary = fits.PrimaryHDU()
        primary.header.update(
            PLATEID=1 + i // 1000, MJD=55000, FIBERID=1 + i % 1000, PLUG_RA=1.0, PLUG_DEC=2.0
        )
        hdus = [primary, fits.BinTableHDU(pixels, name="COADD"), fits.BinTableHDU(row, name="SPALL")]
        name = f"spec-{1 + i // 1000:04d}-55000-{1 + i % 1000:04d}.fits"
        fits.HDUList(hdus).writeto(folder / name)


def best(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the smallest and the median wall time of `repeats` runs after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times), statistics.median(times)


def family_memory(pid: int) -> int:
    """Return the proportional set size (bytes) of a process and all its descendants."""
    total, todo = 0, [pid]
    while todo:
        this = todo.pop()
        try:
            rollup = Path(f"/proc/{this}/smaps_rollup").read_text()
            total += 1024 * int(rollup.split("Pss:")[1].split()[0])
            for task in Path(f"/proc/{this}/task").iterdir():
                todo.extend(int(child) for child in (task / "children").read_text().split())
        except (OSError, IndexError, ValueError):
            continue  # it ended meanwhile
    return total


def command(*arguments: str | Path) -> tuple[float, int]:
    """Run the command line; return its wall time and the peak memory of the whole process family."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", "from broadline.cli import main; main()", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, family_memory(process.pid))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    watcher.join()
    if process.returncode:
        raise SystemExit(errors.decode())
    return time.perf_counter() - start, peak


def repeat(run: Runtime, values: np.ndarray, times: int) -> None:
    """Run a network several times, so that a timing is long enough."""
    for _ in range(times):
        run(values)


def network_rows(model: Path, repeats: int) -> list[tuple[str, str, str]]:
    """Time the network alone."""
    rng = np.random.default_rng(2)
    rows = []
    for precision, goal in (("fp32", "<= 110"), ("bf16", "<= 50")):
        try:
            run = load_model(model, precision=precision).run
        except Exception as error:
            rows.append((f"network alone, {precision}", f"not run: {error}", goal))
            continue
        for n in (32, 256, 4096):
            values = rng.normal(size=(n, 443)).astype(np.float32)
            inner = max(1, 2048 // n)
            low, mid = best(partial(repeat, run, values, inner), repeats)
            figure = f"{1e6 * mid / n / inner:.0f} ({1e6 * low / n / inner:.0f})"
            rows.append((f"network alone, {precision}, batch {n}", f"{figure} us", f"{goal} us"))
    return rows


def quasarnp_rows(
    checkout: Path, parameters: Parameters, config: QuasarNETConfig, plate: Path
) -> tuple[float, str]:
    """Return QuasarNP's time a spectrum: read with fitsio, rebin, renormalise, run, decode."""
    sys.path.insert(0, str(checkout))
    import fitsio
    from quasarnp.model import QuasarNP
    from quasarnp.utils import process_preds, rebin, renormalize, wave

    network = QuasarNP(keras_layers(parameters, config), rescale=True, nlayers=len(config.convolutions))
    lines, bal = ["LYA", "CIV(1548)", "CIII(1909)", "MgII(2796)", "Hbeta", "Halpha"], ["CIV(1548)"]

    def run() -> None:
        with fitsio.FITS(str(plate)) as hdus:
            header = hdus[0].read_header()
            flux, ivar = hdus[0].read(), hdus[1].read()
        grid = 10 ** (header["COEFF0"] + header["COEFF1"] * np.arange(flux.shape[1]))
        total, weight = rebin(flux, ivar, grid, out_grid=wave)
        alive = weight.any(axis=1)  # QuasarNP's readers drop the others too; renormalize fails on them
        total, weight = total[alive], weight[alive]
        good = weight > 0
        total[good] /= weight[good]
        output = network.predict(renormalize(total, weight)[:, :, None])
        process_preds(output, lines, bal, verbose=False)

    low, mid = best(run, 3)
    return mid / fits.getval(plate, "NAXIS2"), f"{1e3 * mid:.0f} ({1e3 * low:.0f}) us"


def keras_layers(parameters: Parameters, config: QuasarNETConfig) -> dict[str, dict[str, np.ndarray]]:
    """Return parameters by the names and in the layout of the Keras files QuasarNP reads."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    norm = {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }
    depth = len(config.convolutions)
    for i in range(depth):
        kernel = parameters[f"convolutions.{i}.weight"][:, :, 0].transpose(2, 1, 0)
        layers[f"conv_{i + 1}"] = {"kernel": kernel, "bias": parameters[f"convolutions.{i}.bias"]}
        layers[f"batch_normalization_{i + 1}"] = {k: parameters[f"norms.{i}.{v}"] for k, v in norm.items()}
    hidden = parameters["hidden.weight"].reshape(config.hidden, -1, config.lengths[-1])
    kernel = hidden.transpose(2, 1, 0).reshape(-1, config.hidden)
    layers["fc_common"] = {"kernel": kernel, "bias": parameters["hidden.bias"]}
    layers[f"batch_normalization_{depth + 1}"] = {k: parameters[f"hidden_norm.{v}"] for k, v in norm.items()}
    for i in range(config.n_lines):
        rows = slice(i * config.n_boxes, (i + 1) * config.n_boxes)
        for ours, theirs in (("confidence", "fc_box"), ("offset", "fc_offset")):
            layer = {"kernel": parameters[f"{ours}.weight"][rows].T, "bias": parameters[f"{ours}.bias"][rows]}
            layers[f"{theirs}_{i}"] = layer
    return layers


def precision_row(weights: Path, spectra: Path) -> tuple[str, str, str]:
    """Return how many line decisions bfloat16 changes in a trained network on real spectra."""
    import broadline

    exact, fast = load_model(weights), load_model(weights, precision="bf16")
    changed = total = 0
    for batch in broadline.read(spectra):
        values = exact.representation(batch).values
        high, low = exact.predict(values)[0] > 0.4, fast.predict(values)[0] > 0.4
        changed, total = changed + int((high != low).sum()), total + high.size
    label = f"line decisions at 0.4 changed by bf16 ({exact.name}, {total} decisions on real spectra)"
    return label, f"{changed} = {100 * changed / total:.3f} %", "< 0.1 %"


def anchor_row() -> tuple[str, str, str]:
    """Return what the machine gives just now, to judge the rest by: a matrix product in ONNX Runtime."""
    import onnxruntime
    from onnx import TensorProto, helper

    n = 2048
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [n, n]) for name in "abc"]
    node = helper.make_node("MatMul", ["a", "b"], ["c"])
    model = helper.make_model(
        helper.make_graph([node], "anchor", info[:2], info[2:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    a = np.ones((n, n), np.float32)
    low, mid = best(lambda: session.run(None, {"a": a, "b": a}), 7)
    return (
        "anchor: float32 matrix product, GFLOP/s",
        f"{2 * n**3 / mid / 1e9:.0f} ({2 * n**3 / low / 1e9:.0f})",
        "",
    )


def part_rows(specs: Path, plate: Path) -> list[tuple[str, str, str]]:
    """Time the steps before the network, in one process and one thread."""
    import fitsio

    from broadline import archives
    from broadline.archives.sdss import read_spec_astropy, read_spec_fast

    paths = sorted(specs.glob("*.fits"))[:500]
    represent = Representation()
    (batch,) = archives.read(archives.get("sdss-plate"), [plate], 1000)

    def fitsio_read(path: Path) -> object:
        with fitsio.FITS(str(path)) as hdus:
            return hdus[1].read(columns=["flux", "loglam", "ivar", "and_mask"])

    steps: list[tuple[str, Callable[[], object], int]] = [
        ("read a spec file, narrow reader", lambda: [read_spec_fast(path) for path in paths], len(paths)),
        ("read a spec file, astropy", lambda: [read_spec_astropy(path) for path in paths[:100]], 100),
        ("read a spec file, fitsio", lambda: [fitsio_read(path) for path in paths[:100]], 100),
        ("read a plate", lambda: list(archives.read(archives.get("sdss-plate"), [plate], 512)), 1000),
        ("rebin and renormalise", lambda: represent(batch), 1000),
    ]
    rows = []
    for label, run, n in steps:
        low, mid = best(run, 5)
        rows.append((f"{label}, one core", f"{1e6 * mid / n:.1f} ({1e6 * low / n:.1f}) us", ""))
    return rows


def start_rows() -> list[tuple[str, str, str]]:
    """Time the start of the interpreter with ``import broadline`` and of ``broadline --help``."""
    rows = []
    for label, code in (("import broadline", "import broadline"), ("broadline --help", None)):
        arguments = ["-c", code] if code else ["-c", "from broadline.cli import main; main()", "--help"]
        run = lambda: subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)  # noqa: B023, E731
        _, mid = best(run, 5)
        rows.append((label, f"{mid:.2f} s", "<= 0.5 s"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quasarnp", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--spectra", type=Path)
    parser.add_argument("--plates", type=int, default=20)
    parser.add_argument("--specs", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options)
    cores = len(os.sched_getaffinity(0))
    lines = [
        f"    python benchmarks/classify.py {' '.join(shown(options))}",
        "",
        f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, "
        f"{time.strftime('%Y-%m-%d')}; median (best).",
        "",
        "| what | measured | must reach |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    print("\n".join(lines))
    if options.output:
        write_between(options.output, "classify.py", "\n".join(lines))


def shown(options: argparse.Namespace) -> list[str]:
    """Return the options that were given, paths without their folders."""

    def text(value: object) -> str:
        if isinstance(value, list):
            return " ".join(map(str, value))
        return value.name if isinstance(value, Path) else str(value)

    given = {name.replace("_", "-"): value for name, value in vars(options).items() if value is not None}
    return [f"--{name} {text(value)}" for name, value in given.items()]


def measure(folder: Path, options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Return all rows of the table."""
    config = QuasarNETConfig(hidden_activation="norm-relu", offset_range=(-0.1, 1.1))
    parameters = random_parameters(config)
    recipe = Recipe("paper-size", config, Representation(), LEGACY_LINES, Rule(), {"origin": "random"})
    model = save_model(folder / "paper-size.onnx", recipe, parameters)
    rows = [anchor_row(), *start_rows(), *network_rows(model, options.repeats)]
    if options.weights and options.spectra:
        rows.append(precision_row(options.weights, options.spectra))

    few, many, specs = (folder / name for name in ("plates", "many", "specs"))
    for path in (few, many, specs):
        path.mkdir()
    for i in range(options.plates):
        write_plate(few / f"spPlate-{i + 1:04d}-55000.fits", i + 1)
    for i in range(200):  # ten times over by hard links: what is read is the same, the work is not
        os.link(
            few / f"spPlate-{i % options.plates + 1:04d}-55000.fits", many / f"spPlate-{i + 1:04d}-55000.fits"
        )
    write_specs(specs, options.specs)
    rows += part_rows(specs, few / "spPlate-0001-55000.fits")
    peer = None
    if options.quasarnp:
        peer, text = quasarnp_rows(options.quasarnp, parameters, config, few / "spPlate-0001-55000.fits")
        rows.append(("QuasarNP on the same plates: read, rebin, run, decode", text, ""))
    goals = {"fp32": "<= 140 us", "bf16": "<= 75 us"}
    for precision in ("fp32", "bf16"):
        for label, plates, n in (("20,000", few, 1000 * options.plates), ("200,000", many, 200_000)):
            arguments = [
                "classify",
                plates,
                "-o",
                folder / "out.parquet",
                "--model",
                model,
                "--precision",
                precision,
            ]
            seconds, peak = min(command(*arguments) for _ in range(3 if n < 100_000 else 1))
            each = seconds / n
            rows.append(
                (
                    f"{n:,} spectra in plates, file to catalogue, {precision}",
                    f"{1e6 * each:.0f} us",
                    goals[precision],
                )
            )
            if peer:
                rows.append((f"... times faster than QuasarNP ({label})", f"{peer / each:.1f} x", ">= 10 x"))
            rows.append((f"... peak memory of all processes ({label})", f"{peak / 1e9:.2f} GB", "<= 1.0 GB"))
    arguments = ["classify", specs, "-o", folder / "out.parquet", "--model", model]
    seconds, _ = min(command(*arguments) for _ in range(3))
    rows.append(
        (f"{options.specs:,} spec files, warm, fp32", f"{1e6 * seconds / options.specs:.0f} us", "<= 250 us")
    )
    return [*rows, anchor_row()]


if __name__ == "__main__":
    main()
