"""Networks: the paper's architecture, the ONNX graph, torch, and published Keras weights."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from broadline.decision import velocity
from broadline.errors import ModelError
from broadline.finders import decode
from broadline.grid import QUASARNET_LINEAR
from broadline.legacy import import_keras
from broadline.lines import LEGACY_LINES
from broadline.model import Model, serialise
from broadline.networks.architecture import Convolution, QuasarNETConfig
from broadline.networks.graph import build, parameters_of
from broadline.runtime import OnnxRuntime, Precision, TorchRuntime
from keras_file import forward, rescaling, write_keras


def random_parameters(config: QuasarNETConfig, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    draw = {True: lambda shape: rng.gamma(2, 0.5, shape), False: lambda shape: rng.normal(0, 0.2, shape)}
    return {n: draw[n.endswith("running_var")](s).astype(np.float32) for n, s in config.shapes().items()}


def small(**changes) -> QuasarNETConfig:
    fields = {
        "n_pixels": 60,
        "convolutions": (Convolution(5, 7, 2), Convolution(4, 3, 1, (1, 1))),
        "hidden": 6,
    }
    return QuasarNETConfig(**(fields | changes))


def test_the_papers_network_has_the_layers_of_figure_1() -> None:
    paper = QuasarNETConfig()
    assert paper.lengths == (443, 217, 104, 48, 20)
    assert [(c.filters, c.width, c.stride) for c in paper.convolutions] == [(100, 10, 2)] * 4
    assert (paper.hidden, paper.n_lines, paper.n_boxes) == (100, 7, 13)
    assert paper.hidden_activation == "sigmoid"
    assert paper.offset_range == (0.0, 1.0)


def test_the_published_codes_network_has_521882_parameters() -> None:
    code = QuasarNETConfig(hidden_activation="norm-relu")
    assert sum(int(np.prod(shape)) for shape in code.shapes().values()) == 521_882


@pytest.mark.parametrize("activation", ["sigmoid", "norm-relu"])
@pytest.mark.parametrize("offsets", [(0.0, 1.0), (-0.1, 1.1)])
def test_torch_and_onnx_agree_before_and_after_folding(activation: str, offsets: tuple[float, float]) -> None:
    torch = pytest.importorskip("torch")
    from broadline.networks.quasarnet import QuasarNET

    config = small(hidden_activation=activation, offset_range=offsets, n_boxes=5, n_lines=3)
    parameters = random_parameters(config)
    network = QuasarNET.from_parameters(config, parameters).eval()
    x = np.random.default_rng(1).normal(size=(9, 60)).astype(np.float32)
    runtime = OnnxRuntime(build(config, parameters, {}))
    runtime.config = config
    expected = runtime(x)
    assert expected[0].shape == (9, 3, 5)
    assert np.ptp(expected[0]) > 0.1, "the test network must not be saturated"
    with torch.inference_mode():
        for other in (network, network.folded()):
            ours = other(torch.from_numpy(x))
            np.testing.assert_allclose(ours.confidence.numpy(), expected.confidence, atol=2e-6)
            np.testing.assert_allclose(ours.offset.numpy(), expected.offset, atol=2e-6)
            assert ours.log_sigma is expected.log_sigma is None


def network_of_two_channels_and_three_heads() -> tuple[QuasarNETConfig, dict[str, np.ndarray]]:
    config = small(hidden_activation="norm-relu", offset_range=(-0.1, 1.1), n_lines=3, channels=2, sigma=True)
    return config, random_parameters(config)


def two_channels(n: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, 2, 60)).astype(np.float32)


def test_torch_and_onnx_agree_with_two_channels_and_a_third_head() -> None:
    torch = pytest.importorskip("torch")
    from broadline.networks.quasarnet import QuasarNET

    config, parameters = network_of_two_channels_and_three_heads()
    network = QuasarNET.from_parameters(config, parameters).eval()
    runtime = OnnxRuntime(build(config, parameters, {}))
    runtime.config = config
    x = two_channels(200)  # more than one chunk
    expected = runtime(x)
    assert expected.log_sigma is not None
    assert expected.log_sigma.shape == (200, 3, 13)
    assert expected.log_sigma.min() < -0.2, "a logarithm has no sigmoid on it"
    with torch.inference_mode():
        for other in (network, network.folded()):
            for ours, theirs in zip(other(torch.from_numpy(x)), expected, strict=True):
                np.testing.assert_allclose(ours.numpy(), theirs, atol=5e-6)
    x[:, 1] *= -5
    assert np.abs(runtime(x).confidence - expected.confidence).max() > 0.01, "the second channel counts"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_torch_runtime_returns_all_heads_as_float32(precision: Precision) -> None:
    pytest.importorskip("torch")
    config, parameters = network_of_two_channels_and_three_heads()
    content = build(config, parameters, {})
    onnx = OnnxRuntime(content)
    onnx.config = config
    x = two_channels(130)
    for ours, theirs in zip(TorchRuntime(config, content, precision)(x), onnx(x), strict=True):
        assert ours is not None and ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-5 if precision == "fp32" else 0.1)


def test_a_first_channel_alone_is_the_network_of_one_channel() -> None:
    """With the weights of the second channel at zero the two networks are one."""
    config, parameters = small(), random_parameters(small())
    wide = small(channels=2)
    first = np.zeros(wide.shapes()["convolutions.0.weight"], np.float32)
    first[:, :1] = parameters["convolutions.0.weight"]
    runtimes = []
    for c, p in ((config, parameters), (wide, parameters | {"convolutions.0.weight": first})):
        runtimes.append(OnnxRuntime(build(c, p, {})))
        runtimes[-1].config = c
    x = two_channels(7)
    narrow, both = runtimes[0](np.ascontiguousarray(x[:, 0])), runtimes[1](x)
    np.testing.assert_allclose(both.confidence, narrow.confidence, atol=1e-6)
    np.testing.assert_allclose(both.offset, narrow.offset, atol=1e-6)


def test_networks_stored_before_channels_and_sigma_are_read_and_written_as_they_were() -> None:
    stored = {
        "n_pixels": 60,
        "convolutions": [{"filters": 5, "width": 7, "stride": 2, "padding": [0, 0]}],
        "hidden": 6,
        "hidden_activation": "norm-relu",
        "n_lines": 3,
        "n_boxes": 5,
        "offset_range": [-0.1, 1.1],
        "epsilon": 1e-3,
    }
    config = QuasarNETConfig.from_dict(stored)
    assert (config.channels, config.sigma) == (1, False)
    assert config.heads == ("confidence", "offset")
    assert json.loads(json.dumps(config.to_dict())) == stored
    assert not any("log_sigma" in name for name in config.shapes())


def test_channels_and_sigma_survive_the_file() -> None:
    config = small(channels=2, sigma=True)
    fields = json.loads(json.dumps(config.to_dict()))
    assert QuasarNETConfig.from_dict(fields) == config
    assert config.shapes()["convolutions.0.weight"] == (5, 2, 1, 7)
    assert config.shapes()["log_sigma.weight"] == config.shapes()["offset.weight"]


@pytest.mark.parametrize("changes", [{}, {"channels": 2}])
def test_spectra_of_another_length_are_refused_not_reshaped(changes: dict) -> None:
    torch = pytest.importorskip("torch")
    from broadline.networks.quasarnet import QuasarNET

    config = small(**changes)
    with pytest.raises(RuntimeError):
        QuasarNET(config).eval()(torch.zeros(4, *config.input_shape[:-1], 30))


def test_a_network_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="channel"):
        small(channels=0)


def test_a_torch_network_goes_into_a_file_and_comes_back_the_same() -> None:
    torch = pytest.importorskip("torch")
    from broadline.networks.quasarnet import QuasarNET

    torch.manual_seed(0)
    config = small(hidden_activation="norm-relu")
    network = QuasarNET(config)
    network(torch.randn(32, 60))  # moves the running statistics
    content = build(config, network.parameters_by_name(), {})
    back = QuasarNET.from_parameters(config, parameters_of(content))
    for name, value in network.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(value, back.state_dict()[name]), name


def test_parameters_that_do_not_fit_are_refused() -> None:
    config = small()
    good = random_parameters(config)
    for bad in (
        {k: v for k, v in good.items() if k != "hidden.bias"},
        good | {"extra.weight": np.zeros(3, np.float32)},
        good | {"hidden.bias": np.zeros(7, np.float32)},
        good | {"hidden.bias": np.full(6, np.nan, np.float32)},
    ):
        with pytest.raises(ValueError, match="parameter"):
            build(config, bad, {})


def test_a_network_that_leaves_no_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        QuasarNETConfig(n_pixels=100)


# ---- published weights


@pytest.mark.filterwarnings("ignore:QuasarNP")
def test_the_stored_tensorflow_output_is_reproduced(golden: Path) -> None:
    """Confidences to 1e-5 and redshifts to 1 km/s (measured: 4e-7 and 0.01 km/s)."""
    model = Model(serialise(*import_keras(golden / "test_weights_6_layer.h5")))
    expected = np.load(golden / "qnet_output_6_layer.npy").transpose(1, 0, 2)
    x = np.load(golden / "coadd_x.npy").astype(np.float32)
    confidence, offset, _ = model.run(x)
    np.testing.assert_allclose(confidence, expected[:, :, :13], atol=1e-5)
    np.testing.assert_allclose(offset, expected[:, :, 13:], atol=1e-5)
    grid = model.representation.grid
    z_expected = decode(expected[:, :, :13], expected[:, :, 13:], LEGACY_LINES, grid)[1]
    assert np.abs(velocity(model.predict(x)[1], z_expected)).max() < 1.0


def test_the_slim_weights_equal_a_float64_transcription_of_the_network(golden: Path) -> None:
    path = golden / "test_weights.h5"
    model = Model(serialise(*import_keras(path)))
    x = np.load(golden / "coadd_x.npy")
    with h5py.File(path) as file:
        stored = file["model_weights"]
        order = (
            [f"conv_{i}" for i in range(1, 5)],
            ["batch_normalization", *(f"batch_normalization_{i}" for i in range(1, 4))],
        )
        names = [name for pair in zip(*order, strict=True) for name in pair]
        names += ["fc_common", "batch_normalization_4"] + [
            f"fc_{k}_{i}" for i in range(7) for k in ("box", "offset")
        ]
        weights = {n: {k[:-2]: v[()] for k, v in stored[n][n].items()} for n in names}
    expected = forward(weights, x, (-0.1, 1.1))
    confidence, offset, _ = model.run(x.astype(np.float32))
    np.testing.assert_allclose(confidence, expected[:, :, 0], atol=1e-5)
    np.testing.assert_allclose(offset, expected[:, :, 1], atol=1e-5)
    z_expected = decode(expected[:, :, 0], expected[:, :, 1], LEGACY_LINES, model.representation.grid)[1]
    assert np.abs(velocity(model.predict(x.astype(np.float32))[1], z_expected)).max() < 1.0


def test_the_slim_weights_find_the_three_quasars_among_the_24_desi_spectra(golden: Path) -> None:
    model = Model(serialise(*import_keras(golden / "test_weights.h5")))
    c, z, _ = model.predict(np.load(golden / "coadd_x.npy").astype(np.float32))
    three = (c[:, :6] > 0.4).sum(axis=1) >= 3
    best = z[np.arange(24), c[:, :6].argmax(axis=1)]
    np.testing.assert_allclose(sorted(best[three]), [0.475, 2.881, 3.915], atol=0.002)


def test_where_quasarnp_would_decode_a_file_wrongly_a_warning_says_so(golden: Path) -> None:
    with pytest.warns(UserWarning, match="no layer is called 'lambda'"):
        import_keras(golden / "test_weights_6_layer.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        import_keras(golden / "test_weights.h5")


@pytest.mark.parametrize("suffix", [0, 3])
@pytest.mark.parametrize("code", [None, rescaling()])
@pytest.mark.filterwarnings("ignore:QuasarNP")
def test_layers_are_found_by_the_graph_whatever_they_are_called(
    tmp_path: Path, suffix: int, code: str | None
) -> None:
    weights = write_keras(tmp_path / "w.h5", suffix=suffix, code=code, n_boxes=9, grid=_grid(120))
    recipe, parameters = import_keras(tmp_path / "w.h5")
    assert recipe.network.n_boxes == 9
    assert recipe.network.offset_range == ((-0.1, 1.1) if code else (0.0, 1.0))
    x = np.random.default_rng(3).normal(size=(5, 120)).astype(np.float32)
    expected = forward(weights, x, recipe.network.offset_range)
    confidence, offset, _ = Model(serialise(recipe, parameters)).run(x)
    np.testing.assert_allclose(confidence, expected[:, :, 0], atol=1e-5)
    np.testing.assert_allclose(offset, expected[:, :, 1], atol=1e-5)


def _grid(size: int) -> np.ndarray:
    return 10 ** (np.log10(3600) + 1e-3 * np.arange(size))


def test_same_padding_is_tensorflows(tmp_path: Path) -> None:
    write_keras(tmp_path / "w.h5", padding="same", grid=_grid(120))
    recipe, _ = import_keras(tmp_path / "w.h5")
    assert recipe.network.lengths == (120, 60, 30)
    assert [c.padding for c in recipe.network.convolutions] == [(4, 4), (4, 4)]


def test_the_wavelength_grid_comes_from_the_file(tmp_path: Path) -> None:
    write_keras(tmp_path / "w.h5", n_pixels=458, grid=QUASARNET_LINEAR.edges[:-1])
    grid = import_keras(tmp_path / "w.h5")[0].representation.grid
    assert (grid.kind, grid.size) == ("linear", 458)
    assert (grid.start, grid.step) == pytest.approx((3600.0, 13.6))
    write_keras(tmp_path / "l.h5", grid=_grid(120))
    grid = import_keras(tmp_path / "l.h5")[0].representation.grid
    assert (grid.kind, grid.size) == ("log", 120)
    assert (grid.start, grid.step) == pytest.approx((np.log10(3600), 1e-3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code": rescaling(0.0, 2.0)}, "not the published rescaling"),
        ({"code": "bm90IGNvZGU="}, "not the published rescaling"),
        ({"n_lines": 3}, "3 line finders"),
        ({"box_activation": "linear"}, "not a dense layer of sigmoids"),
        ({"grid": np.geomspace(3600, 9000, 77)}, "77 pixels"),
        ({"grid": np.r_[np.arange(60), 3 * np.arange(60) + 100] + 3600.0}, "equally spaced"),
    ],
)
def test_a_file_that_cannot_be_read_rightly_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    write_keras(tmp_path / "w.h5", **({"grid": _grid(120)} | changes))
    with pytest.raises(ModelError, match=message):
        import_keras(tmp_path / "w.h5")


def test_other_box_counts_and_epsilons_are_read_and_quasarnp_doubted(tmp_path: Path) -> None:
    write_keras(tmp_path / "w.h5", n_boxes=7, epsilon=1e-5, code=rescaling(), suffix=1, grid=_grid(120))
    with pytest.warns(UserWarning, match=r"offset rescaling.*13 boxes.*epsilon.*numbered"):
        recipe, _ = import_keras(tmp_path / "w.h5")
    assert recipe.network.epsilon == pytest.approx(1e-5)
