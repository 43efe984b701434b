"""The class activation map of an image."""

import numpy as np

from dn_jax.report import activation


def test_a_class_may_have_dollars_in_its_name(tmp_path):
  image, activations = np.zeros((8, 8, 3), np.uint8), np.eye(2)
  activation.write(tmp_path / "map.png", image, activations, "$x_$ 50 %")  # No formula, and a broken one.
  assert (tmp_path / "map.png").stat().st_size > 1000
  (_, mapped, _) = activation.draw(image, activations, "$x_$ 50 %").axes
  assert mapped.get_title() == "$x_$ 50 %"
