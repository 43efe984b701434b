"""A confusion matrix as a figure and as a table."""

import csv
import io

import measures
import numpy as np
import pytest

from dn_jax.report import confusion

MATRIX = np.array([[995, 5, 0], [1, 2, 1], [0, 0, 0]])
NAMES = ("cat", "dog", "owl")


def written(axes):
  """Texts of squares by (row, column)."""
  return {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}


def labels(axis):
  return [label.get_text() for label in axis.get_ticklabels()]


def test_rows_are_true_classes_and_squares_have_shares_of_a_row_and_counts():
  axes = measures.laid_out(confusion.draw(MATRIX, NAMES, "title")).axes[0]
  assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "predicted class")
  assert labels(axes.yaxis) == ["cat", "dog", "owl (no image)"]
  assert labels(axes.xaxis) == ["cat", "dog", "owl"]
  assert written(axes) == {
    (0, 0): ">99%\n995",
    (0, 1): "<1%\n5",
    (1, 0): "25%\n1",
    (1, 1): "50%\n2",
    (1, 2): "25%\n1",
  }
  shown = axes.images[0].get_array().filled(np.nan)
  np.testing.assert_allclose(shown, [[99.5, 0.5, 0], [25, 50, 25], [np.nan] * 3])


@pytest.mark.parametrize("classes", [2, 20, 21, 100, 101])
def test_matrices_of_any_size_fit_a_page(classes):
  rng = np.random.default_rng(0)
  names = [f"a class with a name too long for a page, {n}" for n in range(classes)]
  figure = measures.laid_out(confusion.draw(rng.integers(0, 20_000, (classes, classes)), names, "title " * 20))
  assert max(measures.pixels(figure)) <= 4000
  assert measures.cut_off(figure) == []
  # An empty name does not matter: each label is on a line of its own.
  assert measures.overlapping([(text.get_text(), text.get_window_extent()) for text in measures.texts(figure)]) == []


def test_of_many_classes_those_with_the_most_errors_are_drawn_and_the_rest_is_one_column():
  matrix = np.diag(np.full(150, 10))
  for n in range(50):  # Classes 0, 3, 6, ... are taken for the next one, and for class 149.
    matrix[3 * n, 3 * n + 1] = 2
    matrix[3 * n, 0] += 8 * (n > 0)
  axes = confusion.draw(matrix, [f"class {n}" for n in range(150)], "a long title " * 6).axes[0]
  assert labels(axes.yaxis) == [f"class {3 * n}" for n in range(50)]
  assert labels(axes.xaxis) == [*labels(axes.yaxis), "other classes"]
  shares = axes.images[0].get_array()
  np.testing.assert_allclose(shares[1, [0, 1, 50]], [40, 50, 10])
  np.testing.assert_allclose(shares.sum(axis=1), 100)
  assert "the 50 classes with the most errors, of 150" in axes.figure.get_suptitle().splitlines()


def test_the_table_has_all_numbers_by_name():
  rows = list(csv.reader(io.StringIO(confusion.table(MATRIX, ("a, b", 'say "c"', "owl")))))
  assert rows[0] == ["true class \\ predicted class", "a, b", 'say "c"', "owl"]
  assert [row[0] for row in rows[1:]] == rows[0][1:]
  np.testing.assert_array_equal([list(map(int, row[1:])) for row in rows[1:]], MATRIX)


def test_names_of_any_characters_are_drawn_and_written_harmlessly(tmp_path):
  names = ("caf\udce9\n", "\x1b[31mred", "$x_1$ \u732b <b>")
  confusion.write(tmp_path / "all.svg", MATRIX, names, "$title$ \x1b")
  drawn, table = (tmp_path / f"all{suffix}" for suffix in (".svg", ".csv"))
  assert "\x1b" not in drawn.read_text() + table.read_text()
  assert next(csv.reader(table.open()))[1:] == ["caf\\xe9\\n", "\\x1b[31mred", "$x_1$ \u732b <b>"]
  axes = measures.laid_out(confusion.draw(MATRIX, names, "title")).axes[0]  # Without a glyph that is missing.
  assert labels(axes.xaxis) == ["caf\\xe9\\n", "\\x1b[31mred", "$x_1$ \\u732b <b>"]
