"""Grids: positions, wavelengths and edges, and the paper's 443 pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadline.grid import QUASARNET_LINEAR, QUASARNET_LOG, TRANSFER_LOG, Grid

GRIDS = [QUASARNET_LOG, QUASARNET_LINEAR, TRANSFER_LOG]


@pytest.mark.parametrize("grid", GRIDS)
@given(position=st.floats(-10, 3000))
def test_position_is_the_inverse_of_wavelength(grid: Grid, position: float) -> None:
    assert grid.position(grid.wavelength(position)) == pytest.approx(position, abs=1e-9)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_pixel_holds_its_centre_and_its_left_edge(grid: Grid) -> None:
    numbers = np.arange(grid.size)
    np.testing.assert_array_equal(grid.bins(grid.centres), numbers)
    np.testing.assert_array_equal(grid.bins(grid.edges[:-1]), numbers)
    assert grid.bins(grid.edges[-1:])[0] == grid.size


def test_the_443_pixels_of_the_paper_end_at_9984_not_10000() -> None:
    assert QUASARNET_LOG.size == 443
    assert QUASARNET_LOG.edges[0] == pytest.approx(3600.0)
    assert QUASARNET_LOG.edges[-1] == pytest.approx(9983.95, abs=0.01)


def test_the_transfer_grid_has_2048_pixels_between_3839_and_8915() -> None:
    assert TRANSFER_LOG.edges[[0, -1]] == pytest.approx([3839.0, 8915.0])
    assert len(TRANSFER_LOG.centres) == 2048


@pytest.mark.parametrize(
    "bad", [("cubic", 0.0, 1.0, 3), ("log", 0.0, 0.0, 3), ("log", np.nan, 1.0, 3), ("log", 0, 1, 0)]
)
def test_an_impossible_grid_is_refused(bad: tuple) -> None:
    with pytest.raises(ValueError, match="grid"):
        Grid(*bad)
