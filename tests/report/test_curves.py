"""Curves from records."""

import dataclasses

import pytest
from matplotlib import pyplot

from dn_jax.report import curves
from dn_jax.training.loop import EpochRecord

RECORD = EpochRecord(1, 10, 0.1, 1.5, 0.4, None, None, 1.4, 0.3, 0.1, 2.0, 0.5, 100.0)


@pytest.mark.parametrize("epochs", [1, 5])
@pytest.mark.parametrize("valid", [None, 0.35])
def test_curves_show_the_records(epochs, valid, tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(pyplot, "close", drawn.append)
  records = [
    dataclasses.replace(
      RECORD,
      epoch=n,
      train_error=0.4 / n,
      valid_loss=valid,
      valid_error=valid,
      test_error=0.0 if n == 5 else 0.3,
      learning_rate=0.1 if n < 3 else 0.01,
    )
    for n in range(1, epochs + 1)
  ]
  curves.draw(records, "title", tmp_path / "curves.png")
  losses, errors = drawn[0].axes
  plotted = {
    line.get_label().split(" ")[0]: list(line.get_ydata()) for line in errors.lines if line.get_label()[0] != "_"
  }
  assert set(plotted) == ({"train", "test"} if valid is None else {"train", "valid", "test"})
  assert plotted["train"] == [record.train_error for record in records]
  drops = [line.get_xdata()[0] for line in errors.lines if line.get_label()[0] == "_"]
  assert drops == ([2.5] if epochs == 5 else [])
  assert losses.get_xlabel() == "epoch"
  assert (tmp_path / "curves.png").stat().st_size > 5000
  assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_errors_that_are_all_zero_are_drawn(tmp_path):
  record = dataclasses.replace(RECORD, train_error=0.0, test_error=0.0)
  curves.draw([record, dataclasses.replace(record, epoch=2)], "zero", tmp_path / "curves.png")
  assert (tmp_path / "curves.png").exists()
