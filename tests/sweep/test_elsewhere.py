"""A sweep's plan for chips that are not there: kept answers, or the compilers'; both are stand-ins."""

import io

import pytest
import rich.console
from test_forecast import line_of, printed, rows_of

from dn_jax.errors import ConfigurationError, UserError
from dn_jax.planner import asking, kept
from dn_jax.planner.plan import Plan
from dn_jax.sweep import elsewhere, forecast

# 2 ms at 1.5 GHz, and 10 ms at 819 GB/s.
FAST, SLOW = Plan(1, cycles=3_000_000, hbm=1), Plan(1, cycles=1, hbm=8_190_000_000)


@pytest.fixture(autouse=True)
def three_steps_an_epoch(monkeypatch):
  monkeypatch.setattr(forecast, "size_of", lambda config, found: forecast.Size(1, 1, config.epochs * 3 * 64, 1))


def of_v5e(monkeypatch, plans):
  """Has a network of the sweep's, at k=4, answers by policy."""
  cells = rows_of("--model.growth-rate 4", monkeypatch.folder)[0].cells
  model = cells[0].config.model
  question = elsewhere.Question(model, 10, (8, 8, 1), 64)
  found = tuple(
    kept.answer("a-network", "v5e", question.under(policy), asking.Told(plan, "libtpu 1", "a program", 1.0), 1.0)
    for policy, plan in plans.items()
  )
  monkeypatch.setattr(kept, "answers", lambda path=None: found)


@pytest.fixture
def monkeypatch(monkeypatch, tmp_path):
  monkeypatch.folder = tmp_path
  return monkeypatch


def test_kept_answers_give_steps_and_hours_of_a_cell(monkeypatch, tmp_path):
  of_v5e(monkeypatch, {"none": SLOW, "block": FAST, "layer_by_layer": None})
  chips = elsewhere.chips(())
  assert chips == elsewhere.Chips(("v5e",), asked=False)
  rows = rows_of("--model.growth-rate 4,8", tmp_path, chips=chips)
  assert rows[0].chips == {"v5e": pytest.approx(0.002, rel=3e-3)}
  assert rows[1].chips == {}
  # Two seeds of two epochs of three steps.
  assert rows[0].seconds_on("v5e") == pytest.approx(12 * 0.002, rel=3e-3)
  text = printed(rows)
  assert line_of(text, "4")[-1] == "2.0 ms, 0 s"
  assert line_of(text, "8")[-1] == ""
  assert line_of(text, "all")[-1] == "unknown"
  assert "an estimate by the chip's compiler" in " ".join(text.split())
  # The run's own policy counts where it has one.
  (row,) = rows_of("--model.growth-rate 4 --model.remat none", tmp_path, chips=chips)
  assert row.chips == {"v5e": pytest.approx(0.01)}


def test_nothing_is_asked_unless_told(monkeypatch, tmp_path):
  monkeypatch.setattr(kept, "answers", lambda path=None: ())
  monkeypatch.setattr(asking, "ask", lambda *_: pytest.fail("asked"))
  assert elsewhere.chips(()) == elsewhere.Chips()
  assert "v5e" not in printed(rows_of("--model.growth-rate 4", tmp_path, chips=elsewhere.chips(())))


def test_a_chip_that_is_named_is_asked_for_what_is_not_kept(monkeypatch, tmp_path):
  of_v5e(monkeypatch, {"bottleneck": FAST})
  asked = []

  def ask(question, target, minutes):
    asked.append((question.model.growth_rate, question.model.remat, target))
    match question.model.growth_rate:
      case 8:
        return asking.Told(SLOW, "libtpu 1", "a program", 1.0)
      case 16:
        return asking.Told(Plan(2**40, cycles=1, hbm=1), "libtpu 1", "a program", 1.0)
      case 20:
        raise asking.Unfinished("libtpu 1", "a program")
    raise UserError("the process died")

  monkeypatch.setattr(asking, "ask", ask)
  console = rich.console.Console(file=io.StringIO(), width=200)
  chips = elsewhere.chips(("v5e",))
  rows = rows_of("--model.growth-rate 4,8,12,16,20", tmp_path)
  times = [elsewhere.seconds(row.cells[0].config, row.images.info, chips, console) for row in rows]
  assert times == [{"v5e": pytest.approx(0.002, rel=3e-3)}, {"v5e": pytest.approx(0.01)}, {}, {}, {}]
  assert asked == [(rate, "bottleneck", "v5e") for rate in (8, 12, 16, 20)]
  said = console.file.getvalue()
  for line in (
    "10-12, bottleneck, for v5e: the process died",
    "10-16, bottleneck, for v5e: does not fit",
    "not finished in 40 min",
  ):
    assert line in said


@pytest.mark.parametrize("name", ["v5", "v5e:2x2", "here"])
def test_what_is_no_chip_is_refused(name):
  with pytest.raises(ConfigurationError, match=f"--target {name}: one chip of v4, v5e"):
    elsewhere.chips((name,))
