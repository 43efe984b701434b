"""What is printed while a sweep runs."""

import io

import fabricated
import pytest
import rich.console

from dn_jax.sweep import display
from dn_jax.sweep.cells import cells_of
from dn_jax.sweep.process import End, Outcome


@pytest.fixture
def shown(tmp_path, monkeypatch, request):
  """A display of three runs of 4 epochs, 100 units of work each; the clock, set by hand; what was printed."""
  words = "--data.name digits --model.depth 10 --model.growth-rate 4 --epochs 4"
  cells = cells_of(words.split(), 3)
  clock, at_once = [0.0], [request.param] if hasattr(request, "param") else []
  monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
  file = io.StringIO()
  made = display.Display(rich.console.Console(file=file, width=300), {cell.key: 100.0 for cell in cells}, *at_once)
  return made, cells, clock, file


def last(file):
  return file.getvalue().splitlines()[-1]


def test_a_run_that_ended_has_a_line_with_its_error_and_the_time_left(shown, tmp_path):
  made, cells, clock, file = shown
  folder = fabricated.finished(tmp_path / "run", cells[0].config, test_error=4.567)
  for cell in cells:
    made.begun(cell, 0)
  clock[0] = 60.0
  made.ended(cells[0], End(Outcome.DONE, 60.0), folder, 4)
  assert last(file) == f"1/3  digits_densenet-bc-10-4_seed0  4.57 % test error  (60 s)  {folder}  left 2 min"


def test_what_was_done_before_the_sweep_does_not_count_for_its_rate(shown, tmp_path):
  made, cells, clock, file = shown
  for cell, epochs in zip(cells, (2, 0, 0), strict=True):
    made.begun(cell, epochs)
  clock[0] = 60.0  # For half a run; two and no more are left.
  made.ended(cells[0], End(Outcome.DONE, 60.0), fabricated.finished(tmp_path / "run", cells[0].config), 4)
  assert last(file).endswith("left 4 min")


def test_what_a_failed_run_lacks_is_neither_done_nor_left(shown, tmp_path):
  made, cells, clock, file = shown
  for cell in cells:
    made.begun(cell, 0)
  clock[0] = 60.0  # A quarter of a run in a minute, so 4 minutes for each of the two that are left.
  made.ended(cells[0], End(Outcome.FAILED, 60.0, "no luck"), tmp_path, 1)
  assert last(file).endswith("left 8 min")
  # The same for one that was told to stop.
  made.ended(cells[1], End(Outcome.STOPPED, 0.0), tmp_path, 0)
  assert "stopped, and saved" in last(file)
  assert last(file).endswith("left 4 min")


def test_a_failed_run_says_why_even_where_its_record_cannot_be_read(shown, tmp_path):
  made, cells, _, file = shown
  made.ended(cells[0], End(Outcome.FAILED, 1.0, "shapes [3, 4] and [/b] differ"), tmp_path / "mk" / "[/b]", 0)
  assert "failed: shapes [3, 4] and [/b] differ  (1 s)" in last(file)
  assert last(file).endswith(f"{tmp_path}/mk/[/b]")


def test_square_brackets_do_no_harm_on_a_terminal(shown, tmp_path):
  _, cells, _, _ = shown
  console = rich.console.Console(file=io.StringIO(), width=300, force_terminal=True)
  with display.Display(console, {cell.key: 1.0 for cell in cells}) as made:
    made.going(cells[0], 1)
    made.taken(cells[1], "process 7 on [/b]", tmp_path / "[/b]")
  assert "process 7 on [/b] is at work on it" in console.file.getvalue()


@pytest.mark.parametrize("shown", [2], indirect=True)
def test_where_runs_go_at_once_a_whole_one_takes_the_time_of_its_lane(shown, tmp_path):
  made, cells, clock, file = shown
  for cell in cells:
    made.begun(cell, 0)
  clock[0] = 60.0  # Two runs have done a half each in a minute; one of them fails there, and its lane takes the third.
  made.going(cells[1], 2)
  made.ended(cells[0], End(Outcome.FAILED, 60.0, "no luck"), tmp_path, 2)
  assert last(file).endswith("left 2 min")


def test_runs_under_way_at_once_have_a_bar_each(shown, tmp_path):
  _, cells, _, _ = shown
  console = rich.console.Console(file=io.StringIO(), width=200, force_terminal=True)
  with display.Display(console, {cell.key: 1.0 for cell in cells}, 8) as made:
    for cell, epochs in zip(cells, (1, 2, 3), strict=True):
      made.going(cell, epochs)
    states = [task.fields["state"].partition("  left")[0] for task in made._bar.tasks]
    assert states == ["0/3 ended", *(f"digits_densenet-bc-10-4_seed{n}  epoch {n + 1}/4" for n in range(3))]
    assert [round(task.completed, 2) for task in made._bar.tasks] == [0.5, 0.25, 0.5, 0.75]
    made.ended(cells[1], End(Outcome.STOPPED, 1.0), tmp_path, 2)
    states = [task.fields["state"].partition("  left")[0] for task in made._bar.tasks]
    assert states == ["1/3 ended", *(f"digits_densenet-bc-10-4_seed{n}  epoch {n + 1}/4" for n in (0, 2))]
