"""Two decimals of an error, the same ones wherever it is printed."""

import statistics

import numpy as np
import untrained

from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.report import ablation, curves, figures, heat
from dn_jax.runs import collection, rounding


def test_every_error_of_ten_thousand_images_and_every_mean_of_two_is_rounded_as_whole_numbers_are():
  for halves in range(0, 20_001):  # Of a hundredth of a percent: images that are wrong in one run and another.
    expected = (halves + 1) // 2  # Halves up.
    text = f"{expected // 100}.{expected % 100:02d}"
    mean = (100 * (halves // 2) / 10_000 + 100 * ((halves + 1) // 2) / 10_000) / 2
    assert rounding.in_words(mean) == text
    assert rounding.in_words(100 * (halves / 20_000)) == text
    assert rounding.in_words(100 * np.mean([halves // 2 / 10_000, (halves + 1) // 2 / 10_000])) == text


def test_a_table_a_heat_map_and_a_legend_have_the_same_digits(tmp_path):
  # Left to binary fractions, the mean of these percentages is rounded up, and that of the fractions down.
  errors = (54.63, 54.64)
  assert f"{statistics.fmean(errors):.2f}" == "54.64"
  assert f"{np.mean([error / 100 for error in errors]):.2%}" == "54.63%"
  for depth, growth_rate in ((10, 4), (10, 8), (16, 4), (16, 8)):
    for seed, error in enumerate(errors):
      model = ModelConfig(depth=depth, growth_rate=growth_rate)
      untrained.run(tmp_path, RunConfig(DataConfig("digits"), model, epochs=2, seed=seed), error)
  found = collection.read(tmp_path).runs
  cells = ablation.cells_of(found)
  table = ablation.table(cells, "title")
  assert {row[-2] for row in table.rows} == {"54.64 ± 0.01 (2)"}
  assert {text.get_text() for text in heat.draw(cells, "title").axes[0].texts} == {"54.64\n± 0.01 (2)"}
  (figure,) = curves.draw_many(figures.records_of(cells), "title")
  legend = [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]
  assert len(legend) == 4
  assert all("54.64%" in " ".join(line.split()) for line in legend)
