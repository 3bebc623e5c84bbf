"""The nets of Simonyan & Zisserman over spectra: shapes, runtimes, model files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from broadline.decision import Rule
from broadline.errors import ModelError
from broadline.grid import TRANSFER_LOG, Grid
from broadline.model import Model, save_model
from broadline.named_models import load_model
from broadline.networks.vgg import NETS, ConvNetConfig
from broadline.recipe import Recipe
from broadline.representation import Representation
from broadline.spectra import Spectra, identity

torch = pytest.importorskip("torch")

from broadline.networks.convnet import ConvNet  # noqa: E402

SMALL = ConvNetConfig(n_pixels=64, stages=(1, 2), filters=4, hidden=(8,))
GRID = Grid("log", float(np.log10(4000.0)), 4e-3, 64)


def n_parameters(config: ConvNetConfig) -> int:
    return sum(int(np.prod(shape)) for shape in config.shapes().values())


def test_net_a_at_the_authors_width_has_their_number_of_parameters() -> None:
    assert n_parameters(ConvNetConfig(stages=NETS["a"])) == 9_632_993


def test_net_a_at_full_width_has_the_channels_of_simonyan_and_zisserman() -> None:
    full = ConvNetConfig(stages=NETS["a"], filters=64, hidden=(4096, 4096))
    assert [after for _, after in full.channels] == [64, 128, 256, 256, 512, 512, 512, 512]


@pytest.mark.parametrize(("net", "depth"), [("mlp", 3), ("a", 11), ("b", 13), ("d", 16), ("e", 19)])
def test_nets_have_as_many_layers_with_weights_as_published(net: str, depth: int) -> None:
    config = ConvNetConfig(stages=NETS[net])
    assert len(config.channels) + len(config.hidden) + 1 == depth


@pytest.mark.parametrize("net", NETS)
def test_torch_and_the_table_of_shapes_agree(net: str) -> None:
    config = ConvNetConfig(stages=NETS[net], filters=2, hidden=(4, 4))
    state = ConvNet(config).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == config.shapes()


def test_weights_start_as_glorot_and_bengio_propose() -> None:
    torch.manual_seed(0)
    network = ConvNet(ConvNetConfig())
    for layer in (*network.convolutions, *network.hidden):
        fan_in = layer.weight[0].numel()
        fan_out = layer.weight.shape[0] * layer.weight[0, 0].numel()
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert float(layer.weight.detach().abs().max()) <= bound
        assert float(layer.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.15)
        assert not layer.bias.detach().any()


def test_a_plain_transcription_in_one_dimension_gives_the_same_logits() -> None:
    torch.manual_seed(1)
    network = ConvNet(SMALL).eval()
    x = torch.randn(5, 64)
    y = x[:, None, :]
    layers = iter(network.convolutions)
    for n in SMALL.stages:
        for _ in range(n):
            layer = next(layers)
            y = torch.relu(torch.nn.functional.conv1d(y, layer.weight[:, :, 0], layer.bias, padding=1))
        y = torch.nn.functional.max_pool1d(y, 2)
    for layer in network.hidden:
        y = torch.relu(layer(y.flatten(1)))
    torch.testing.assert_close(network.logits(x), network.score(y)[:, 0], rtol=1e-5, atol=1e-6)


def test_dropout_acts_in_training_alone() -> None:
    network, x = ConvNet(SMALL), torch.randn(3, 64)
    assert not torch.equal(network.train().logits(x), network.logits(x))
    assert torch.equal(network.eval().logits(x), network.logits(x))


@pytest.mark.parametrize(
    "bad", [{"n_pixels": 62}, {"stages": (0,)}, {"hidden": (0,)}, {"dropout": 1.0}, {"filters": 0}]
)
def test_impossible_nets_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"halved|at least 1|dropout"):
        replace(SMALL, **bad)


# ---- as a model


@pytest.fixture
def recipe() -> Recipe:
    representation = Representation(GRID, resampling="conserving", normalisation="minmax")
    return Recipe("small", SMALL, representation, (), Rule(c_th=0.5), {"origin": "a test"})


@pytest.fixture
def file(recipe: Recipe, tmp_path: Path) -> Path:
    torch.manual_seed(2)
    return save_model(tmp_path / "small.onnx", recipe, ConvNet(SMALL).parameters_by_name())


def some_spectra(n: int) -> Spectra:
    wavelength = 10 ** (np.log10(3900.0) + 1e-3 * np.arange(350))
    rng = np.random.default_rng(3)
    flux = rng.normal(1, 0.3, (n, 350)).astype(np.float32)
    ids = identity("table", ["x"] * n, np.arange(n), OBJID=[str(i) for i in range(n)])
    return Spectra(wavelength, flux, np.ones_like(flux), ids, np.zeros(n, dtype=np.uint32))


def test_a_model_file_gives_back_recipe_and_probabilities(recipe: Recipe, file: Path) -> None:
    model = load_model(file)
    assert model.recipe == recipe
    torch.manual_seed(2)
    network = ConvNet(SMALL).eval()
    x = np.random.default_rng(0).uniform(-1, 1, (300, 64)).astype(np.float32)
    expected = network(torch.from_numpy(x)).probability.detach().numpy()
    np.testing.assert_allclose(model.probability(x), expected, atol=1e-6)
    np.testing.assert_allclose(load_model(file, precision="bf16").probability(x), expected, atol=0.02)


def test_a_catalogue_of_a_convnet_tells_quasars_and_their_probability_and_no_redshift(file: Path) -> None:
    table = load_model(file).classify(some_spectra(20))
    assert len(table) == 20
    assert list(table["IS_QSO"]) == list(np.asarray(table["P_QSO"]) > 0.5)
    assert table["Z"].mask.all() and not any(name.startswith("C_") for name in table.colnames)


def test_a_convnet_has_no_lines_to_show(file: Path) -> None:
    model = load_model(file)
    with pytest.raises(ModelError, match="no line finders"):
        model.predict(np.zeros((1, 64), np.float32))


def test_a_convnet_with_lines_or_of_another_grid_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="size"):
        replace(recipe, representation=Representation(TRANSFER_LOG, normalisation="minmax"))
    from broadline.lines import QUASARNET_LINES

    with pytest.raises(ValueError, match="without finders"):
        replace(recipe, lines=QUASARNET_LINES)


def test_a_network_of_an_unknown_kind_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="transformer"):
        Recipe.from_json(recipe.to_json().replace('"convnet"', '"transformer"'))


def test_the_same_parameters_give_the_same_file(recipe: Recipe, file: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    again = save_model(tmp_path / "again.onnx", recipe, ConvNet(SMALL).parameters_by_name())
    assert again.read_bytes() == file.read_bytes()
    assert Model(again.read_bytes()).sha256 == load_model(file).sha256
