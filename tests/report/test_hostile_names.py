"""A report of runs whose every text comes from outside: names, errors, hosts."""

import csv
import html.parser
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree

import fabricated
import pytest
from conftest import call
from matplotlib.figure import Figure

from dn_jax.report import style, write
from dn_jax.runs import collection

NAMES = (
  *(
    "$x$",
    "$\\frac{1}{$",
    "$_{$",
    "a$b$c^",
    "\\input{/etc/passwd}",
    "\\end{table}",
    "[1cm]",
    "*",
    "%",
    "&",
    "#1",
    "{",
    "}",
  ),
  *(
    "\x1b[31mred",
    "\x00\x08",
    "\x0b\x0c",
    "\u202eabc",
    "中文",
    "🐈",
    "<script>",
    "]]>",
    "-->",
    '"',
    "a|b`c`",
    "~^_",
    "ÐðÞþ",
    "a\nb",
  ),
)


def is_clean(text):
  """Whether it holds neither control codes nor other characters that XML forbids."""
  return re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff\u202a-\u202e]", text) is None


@pytest.fixture(scope="module")
def report(tmp_path_factory):
  folder = tmp_path_factory.mktemp("hostile")
  for number, name in enumerate(NAMES):
    run = fabricated.finished(folder / f"run{number}", fabricated.config(growth_rate=4 + number), 5.0 + number)
    config = json.loads((run / "config.json").read_text())
    config["data"] |= {"name": f"x{name}", "normalise": "channel", "size": 32, "resize": 36}
    (run / "config.json").write_text(json.dumps(config))
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"devices": name, "data": name, "network": name, "commit": name, "versions": {"jax": name}}
    (run / "summary.json").write_text(json.dumps(summary))
  for number, name in enumerate(NAMES):
    fabricated.failed(folder / f"failed{number}", fabricated.config(seed=1 + number), name)
  found = collection.read(folder)
  assert len(found.runs) == 2 * len(NAMES), found.skipped
  write.write(found, folder / "report")
  return folder


def test_no_file_of_it_holds_what_xml_or_a_terminal_trips_over(report):
  for path in (report / "report").iterdir():
    assert path.suffix == ".png" or is_clean(path.read_text()), path
  for path in (report / "report").glob("*.svg"):
    xml.etree.ElementTree.parse(path)


def test_its_page_has_no_element_of_a_name(report):
  parser = html.parser.HTMLParser()
  tags = []
  parser.handle_starttag = lambda tag, attributes: tags.append(tag)
  parser.feed((report / "report" / "report.html").read_text())
  assert "table" in tags
  assert "script" not in tags


def test_its_tables_have_every_row_whole(report):
  with (report / "report" / "table.csv").open(newline="") as file:
    head, *rows = csv.reader(file)
  assert len(rows) >= len(NAMES)
  assert all(len(row) == len(head) for row in rows)
  head = (report / "report" / "table.md").read_text().splitlines()[2].strip("| ").split(" | ")
  latex = (report / "report" / "table.tex").read_text()
  assert latex.isascii()
  assert r"\input" not in latex
  rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
  assert all(len(re.findall(r"(?<!\\)&", row)) == len(head) - 1 for row in rows)
  assert not [row for row in rows if row.lstrip().startswith(("[", "*"))]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_its_tables_compile(report, tmp_path):
  table = (report / "report" / "table.tex").read_text()
  document = rf"\documentclass{{article}}\usepackage{{booktabs,graphicx}}\begin{{document}}{table}\end{{document}}"
  (tmp_path / "all.tex").write_text(document)
  command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "all.tex"]
  done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout[-2000:]
  assert "Overfull" not in done.stdout


def test_a_terminal_gets_no_control_codes(report):
  done = call("experiments/report.py", report, "--trail")
  assert done.returncode == 0, done.stderr
  assert is_clean(done.stdout + done.stderr)
  assert "\\x1b[31mred" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_draws_a_name_as_it_stands(name):
  figure = Figure()
  axes = figure.add_subplot(title=name, xlabel=name, yscale="log")
  axes.plot([1, 2], [1, 1000], label=f"x{name}")
  axes.legend(title=name)
  figure.suptitle(name)
  drawn = style.svg(figure)
  assert is_clean(drawn)
  assert "$\\mathdefault" not in axes.get_title()
  # A log axis still has powers.
  assert any("mathdefault" in label.get_text() for label in axes.get_yticklabels())
  assert drawn == style.svg(figure)
