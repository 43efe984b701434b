"""The class activation map of an image."""

import io

import measures
import numpy as np
from PIL import Image

from dn_jax.report import activation

IMAGE = np.full((8, 8, 3), (255, 0, 0), np.uint8)


def test_a_class_and_a_file_may_have_dollars_in_their_names(tmp_path):
  name, said = "$x_$.png", "$x_$ 50 %"  # No formula, and a broken one.
  activation.write(tmp_path / "map.png", IMAGE, np.eye(2), name, said)
  assert (tmp_path / "map.png").stat().st_size > 1000
  figure = activation.draw(IMAGE, np.eye(2), name, said)
  assert figure.get_suptitle() == name
  assert figure.axes[1].get_title() == said


def test_the_map_lies_over_a_grey_copy_and_a_place_that_adds_nothing_is_as_grey_as_that():
  figure = measures.laid_out(activation.draw(IMAGE, np.array([[1.0, 0.0], [0.0, -1.0]]), "a.png", "cat 50%"))
  _, mapped, bar = figure.axes
  grey, over = mapped.images
  np.testing.assert_allclose(grey.get_array(), 1 / 3)
  assert grey.get_cmap().name == "gray"
  shown = over.to_rgba(over.get_array())
  assert (shown[0, 1, 3], shown[1, 0, 3]) == (0, 0)
  red, blue = shown[0, 0], shown[1, 1]
  assert red[0] > 2 * red[2]
  assert blue[2] > 2 * blue[0]
  # The bar is drawn by the same colours over the same greys.
  greys, values = bar.images
  assert (values.get_cmap(), values.get_clim()) == (over.get_cmap(), over.get_clim())
  assert (greys.get_cmap(), greys.get_clim()) == (grey.get_cmap(), grey.get_clim())
  assert measures.without_axis_labels(figure) == []


def test_on_the_bar_the_largest_value_is_red_and_above():
  figure = activation.draw(IMAGE, np.array([[2.0, -1.0]]), "a.png", "cat 50%")
  content = io.BytesIO()
  figure.savefig(content, dpi=100, format="png")
  pixels = np.asarray(Image.open(content).convert("RGB")).astype(int)
  bar = figure.axes[2]
  assert bar.get_ylim() == (-2, 2)

  def colour(value):
    x, y = bar.transData.transform((0.5, value)).astype(int)
    return pixels[len(pixels) - y, x]

  assert colour(1.9)[0] > 2 * colour(1.9)[2]
  assert colour(-1.9)[2] > 2 * colour(-1.9)[0]
  assert np.ptp(colour(0)) < 10


def test_of_long_names_the_beginning_and_the_end_are_shown():
  name, said = "IMG" + "_0" * 120 + ".jpg", "tabby" + " cat" * 40 + " 12.3%"
  figure = measures.laid_out(activation.draw(IMAGE, np.eye(2), name, said))
  for shown, ends in ((figure.get_suptitle(), ("IMG", ".jpg")), (figure.axes[1].get_title(), ("tabby", "12.3%"))):
    assert shown.startswith(ends[0])
    assert shown.endswith(ends[1])
    assert shown.count("\n") == 1
  assert measures.cut_off(figure) == []
