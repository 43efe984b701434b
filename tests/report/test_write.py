"""A collection's report: files, and a page that opens without a network."""

import dataclasses
import html.parser
import io
import re

import pytest
import rich.console
import untrained

from dn_jax.config.schema import DataConfig, ModelConfig, RunConfig
from dn_jax.errors import ConfigurationError
from dn_jax.report import ablation, style, words, write
from dn_jax.runs import collection, records

one_cell = untrained.one_cell
small_table = untrained.small_table


class Page(html.parser.HTMLParser):
  """Checks that elements close in order; keeps what would be loaded, and the text."""

  def __init__(self, text):
    super().__init__()
    self.open, self.loaded, self.kinds, self.words = [], [], [], []
    self.feed(text)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    self.kinds.append(tag)
    self.loaded += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]
    if tag not in ("meta", "wbr"):  # Have no end.
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    if self.open[-1:] == [tag]:
      self.open.pop()

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.words.append(data)


@pytest.fixture(scope="module")
def written(small_table, tmp_path_factory):
  """A folder with a report, what `write` says that it wrote, and the figures that it had drawn."""
  folder, drawn, draw = tmp_path_factory.mktemp("report"), [], style.svg
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(style, "svg", lambda figure: drawn.append(figure) or draw(figure))
    return folder, write.write(collection.read(small_table), folder), drawn


@pytest.mark.slow
def test_the_report_is_tables_figures_and_a_page(written):
  folder, paths, _ = written
  tables, drawn = ["table.md", "table.tex", "table.csv"], ["heat_map", "error_and_size", "curves"]
  expected = {"report.html", *tables, *(name + suffix for name in drawn for suffix in (".png", ".svg"))}
  assert {path.name for path in folder.iterdir()} == {path.name for path in paths} == expected


def test_the_page_parses_loads_nothing_and_holds_the_figures_that_were_written(written):
  folder, _, _ = written
  text = (folder / "report.html").read_text()
  page = Page(text)
  assert page.kinds.count("svg") == 3
  assert text.lower().count("<!doctype") == 1
  assert "<?xml" not in text
  assert [url for url in page.loaded if not url.startswith(("#", "data:"))] == []
  assert not re.search(r"@import|url\((?!#)", text)
  for path in folder.glob("*.svg"):
    whole = path.read_text()
    assert whole[whole.index("<svg") :] in text
  for row in (folder / "table.csv").read_text().splitlines()[1:]:
    assert row.split(",")[0] in page.words


def test_the_pages_configuration_has_every_flag_that_all_runs_share_once_with_its_value(written, small_table):
  folder, _, _ = written
  text = (folder / "report.html").read_text()
  table = text[text.index("The same in all runs") :].partition("</table>")[0].replace("<wbr>", "")
  rows = [re.findall(r"<td>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
  shown = [(row[n], row[n + 1]) for n in (0, 2) for row in rows if row[n]]
  common = ablation.common_flags(collection.read(small_table).runs)
  expected = [(f"--{flag}", words.in_words(value) or "none") for flag, value in common.items() if value is not None]
  assert shown == [(flag, html.escape(value)) for flag, value in expected]
  assert {len(row) for row in rows} == {4}


def test_each_figure_is_drawn_once(written):
  _, _, drawn = written
  assert len(drawn) == len(set(map(id, drawn))) == 3


def test_a_folder_that_cannot_be_made_is_one_line(one_cell, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ConfigurationError, match="cannot be written"):
    write.write(collection.read(one_cell), tmp_path / "file" / "report")


def test_failures_stand_in_the_page_as_text_with_the_end_of_their_log(tmp_path):
  config = RunConfig(DataConfig("digits"), ModelConfig(depth=10, growth_rate=4), epochs=2)
  folder = untrained.run(tmp_path, config)
  records.write_failure(folder, records.Failure("<script>alert(1)</script>", 1, "now"))
  (folder / "log.txt").write_text("\n".join(f"<b>line {n}" for n in range(40)))
  write.write(collection.read(tmp_path), tmp_path / "report")
  page = Page((tmp_path / "report" / "report.html").read_text())
  assert not {"script", "b"} & set(page.kinds)
  words = "".join(page.words)
  assert "<script>alert(1)</script>" in words
  assert "<b>line 39" in words
  assert "<b>line 14\n" not in words


@pytest.mark.slow
def test_a_sweep_ends_with_its_table_and_report_and_with_code_1_where_runs_failed(tmp_path, capsys):
  config = RunConfig(DataConfig("digits"), ModelConfig(depth=10, growth_rate=4), epochs=2)
  untrained.run(tmp_path, config, 5.0)
  console = rich.console.Console(file=io.StringIO(), width=200)
  done = collection.read(tmp_path).runs
  write.conclude(ablation.table(ablation.cells_of(done), "This sweep"), done, tmp_path, console)
  assert "This sweep" in console.file.getvalue()
  assert str(tmp_path / "report" / "report.html") in console.file.getvalue()
  failed = untrained.run(tmp_path, dataclasses.replace(config, seed=1))
  records.write_failure(failed, records.Failure("x", 1, "now"))
  done = collection.read(tmp_path).runs
  with pytest.raises(SystemExit) as end:
    write.conclude(ablation.table(ablation.cells_of(done), "This sweep"), done, tmp_path, console)
  assert end.value.code == 1
  assert "1 of 2 runs failed" in capsys.readouterr().err
