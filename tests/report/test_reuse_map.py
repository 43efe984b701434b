"""The map of mean absolute weights."""

import measures
import numpy as np
import pytest

from dn_jax.report import reuse_map

# Two layers and a transition whose weights are ten times theirs; then one layer and the classifier.
BLOCKS = [
  np.array([[0.2, 0.1, 10.0], [np.nan, 0.4, 5.0], [np.nan, np.nan, 2.5]]),
  np.array([[0.3, 0.06], [np.nan, 0.12]]),
]


def test_the_last_column_has_a_scale_of_its_own_and_the_figure_says_so():
  figure = measures.laid_out(reuse_map.draw(BLOCKS, "title"))
  first, second = (axes.images[0].get_array().filled(np.nan) for axes in figure.axes if axes.get_title())
  np.testing.assert_allclose(first, [[0.5, 0.25, 1.0], [np.nan, 1.0, 0.5], [np.nan, np.nan, 0.25]])
  np.testing.assert_allclose(second, [[1.0, 0.5], [np.nan, 1.0]])
  titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
  assert titles[0].endswith("strongest: 0.400; of the transition: 10.0")
  assert titles[1].endswith("strongest: 0.300; of the classifier: 0.120")
  words = " ".join(text.get_text() for text in measures.texts(figure))
  assert "last column" in words
  assert "strongest of its own" in words


def test_the_scale_of_colours_fits_the_shares_of_all_blocks():
  images = [axes.images[0] for axes in reuse_map.draw(BLOCKS, "title").axes if axes.get_title()]
  # 0.06 of 0.12 is half, 0.1 of 0.4 a quarter, and nothing is less.
  assert [image.get_clim() for image in images] == [(0.25, 1.0), (0.25, 1.0)]
  even = [np.full_like(block, 0.3) for block in BLOCKS]
  (drawn, *_) = [axes.images[0] for axes in reuse_map.draw(even, "all the same").axes if axes.get_title()]
  assert drawn.get_clim() == (0.0, 1.0)


@pytest.mark.parametrize("blocks", [1, 3, 4])
def test_maps_of_large_networks_fit_a_page(blocks):
  rng = np.random.default_rng(0)
  figure = measures.laid_out(reuse_map.draw([rng.random((65, 65))] * blocks, "title"))
  assert measures.without_axis_labels(figure) == []
  assert max(measures.pixels(figure)) <= 4000
  assert measures.cut_off(figure) == []
  assert measures.overlapping([(text.get_text(), text.get_window_extent()) for text in measures.texts(figure)]) == []
