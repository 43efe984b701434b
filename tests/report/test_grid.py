"""Tables of words in every spelling: what is in a cell comes out of it as it went in."""

import csv
import html.parser
import io
import re

import pytest
import rich.console

from dn_jax.report.grid import Grid, csv_of

NASTY = r"[bold]a[/] \ {x}^2 ~50% & #1 $5_0_ 3 ± 0.1 | <b> `c` *d* \[ --e ?`f"
CELLS = [NASTY, "[/red]", "plain", "trailing \\"]
GRID = Grid(NASTY, ["[i]name[/i]", "a|b", "c", "d"], [CELLS, ["1", "2", "3", "4"]], [NASTY], left=1)


def test_a_terminal_shows_brackets_as_they_are():
  console = rich.console.Console(width=400, file=io.StringIO())
  console.print(GRID.rich())
  printed = console.file.getvalue()
  assert printed.count(NASTY) == 3
  (row,) = [line for line in printed.splitlines() if "[/red]" in line]
  assert [cell.strip() for cell in row.strip("│").split("│")] == CELLS
  assert "[i]name[/i]" in printed


def unescaped_markdown(text):
  """A cell as a reader of Markdown has it: a backslash before punctuation is none."""
  return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)


def test_markdown_cells_come_back():
  lines = GRID.markdown().splitlines()
  row = lines[4]
  cells = re.split(r"(?<!\\)(?:\\\\)*\|", row.strip("|").replace("| ", "|", 0))
  assert row.startswith("| ")
  cells = [cell.strip(" ") for cell in re.findall(r"(?:\\.|[^|\\])+", row.strip("|"))]
  assert [unescaped_markdown(cell) for cell in cells] == CELLS
  assert unescaped_markdown(lines[0].removeprefix("**").removesuffix("**")) == NASTY
  assert unescaped_markdown(lines[-1].removeprefix("- ")) == NASTY
  # No mark is left that Markdown would read.
  assert not re.search(r"(?<!\\)(?:\\\\)*[*`<\[]", cells[0].replace("\\\\", ""))


def untexed(text):
  """A piece of LaTeX as it is set."""
  names = {r"\textbackslash{}": "\\", r"\textasciicircum{}": "^", r"\textasciitilde{}": "~", r"$\pm$": "±"}
  names |= {f"{{{sign}}}": sign for sign in "[*"}
  names |= {f"${sign}$": sign for sign in "<>|"} | {"\\" + sign: sign for sign in "&%_#${}"}
  names |= {"-{}-": "--", "?{}`": "?`"}
  pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
  rest = re.sub(pattern, "", text)
  assert not set(rest) & set("\\{}^~&%_#$"), rest
  assert not re.search("--|[?!`]`|''", rest)
  return re.sub(pattern, lambda match: names[match[0]], text)


def test_latex_cells_come_back():
  lines = GRID.latex().splitlines()
  (row,) = [line for line in lines if "red" in line]
  cells = re.split(r"(?<!\\) & ", row.strip().removesuffix(r" \\"))
  assert [untexed(cell) for cell in cells] == CELLS
  (caption,) = [line for line in lines if r"\caption" in line]
  assert untexed(caption.strip().removeprefix(r"\caption{").removesuffix("}")) == NASTY


@pytest.mark.parametrize(
  ("rows", "is_wide"),
  [([["xxx", "yyy"]], False), ([["x" * 35, "y" * 35]], True), ([["x" * 35, ""], ["", "y" * 35]], True)],
)
def test_latex_groups_close_and_a_table_is_as_wide_as_the_longest_cells_of_its_columns(rows, is_wide):
  text = Grid("t", ["a", "b"], rows, ["note"]).latex()
  bare = re.sub(r"\\[{}]", "", text)
  depth = [bare[: n + 1].count("{") - bare[: n + 1].count("}") for n in range(len(bare))]
  assert min(depth) == 0
  assert depth[-1] == 0
  assert (r"\resizebox" in text) == is_wide
  assert re.findall(r"\\begin\{(\w+)\}", text) == list(reversed(re.findall(r"\\end\{(\w+)\}", text)))


def test_csv_records_come_back_a_number_or_a_text_a_cell():
  text = csv_of(
    [{NASTY: NASTY, "n": 1234567, "mean": 0.1 + 0.2}, {NASTY: "a\nb", "n": 0, "mean": None, "last": "x, y"}]
  )
  assert list(csv.DictReader(io.StringIO(text))) == [
    {NASTY: NASTY, "n": "1234567", "mean": "0.30000000000000004", "last": ""},
    {NASTY: "a b", "n": "0", "mean": "", "last": "x, y"},
  ]


class Cells(html.parser.HTMLParser):
  def __init__(self):
    super().__init__()
    self.cells, self.open = [], False

  def handle_starttag(self, tag, attrs):
    if tag == "td":
      self.open = True
      self.cells.append("")

  def handle_endtag(self, tag):
    self.open = self.open and tag != "td"

  def handle_data(self, data):
    if self.open:
      self.cells[-1] += data


def test_html_cells_come_back():
  parser = Cells()
  parser.feed(GRID.html())
  assert parser.cells == [*CELLS, "1", "2", "3", "4"]


def test_a_line_break_in_a_cell_breaks_no_table():
  grid = Grid("t", ["a"], [["two\nlines"]])
  assert "| two lines |" in grid.markdown()
  assert r"  two lines \\" in grid.latex()


def test_a_line_of_html_may_end_in_a_folders_name_but_in_no_digest():
  page = Grid("t", ["folder", "commit"], [["cifar10+_densenet-40-12_seed0", "fd4fe9c838+"]]).html()
  assert "<td>cifar10+_<wbr>densenet-40-12_<wbr>seed0</td>" in page
  assert ">fd4fe9c838+</td>" in page


@pytest.mark.parametrize("count", [2, 40])
def test_latex_notes_that_do_not_fit_a_page_follow_the_table(count):
  text = Grid("t", ["a"], [["b"]], [f"note {n} {'word ' * 20}" for n in range(count)]).latex()
  table, _, after = text.partition(r"\end{table}")
  assert (table + after).count(r"\footnotesize\raggedright note ") == count
  assert ("note 0 " in table, "note 0 " in after) == (count == 2, count == 40)
