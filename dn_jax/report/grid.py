"""A table of text in several formats: terminal, Markdown, LaTeX, CSV, HTML."""

import csv
import dataclasses
import html
import io
import re
from collections.abc import Mapping, Sequence

import rich.table
from rich.text import Text

from dn_jax.errors import shown

# What a cell of CSV holds.
Value = str | int | float | None

# LaTeX's default fonts have other characters in place of "<>|". After the end of a row, "[" and "*" belong to that end.
_LATEX = {
  **{character: f"\\{character}" for character in "&%_#${}"},
  "\\": r"\textbackslash{}",
  "^": r"\textasciicircum{}",
  "~": r"\textasciitilde{}",
  "±": r"$\pm$",
  **{character: f"${character}$" for character in "<>|"},
  **{character: f"{{{character}}}" for character in "[*"},
}
# Beside ASCII, the letters that LaTeX has without further packages: not Icelandic's Ð, Þ, ð, þ.
_LATEX_LETTERS = re.compile(r"[ -~À-ÏÑ-ÖØ-Ýß-ïñ-öø-ýÿ]")
# Between signs that LaTeX sets as another one: "--" as a dash.
_LATEX_JOINED = re.compile(r"(?<=[-`'!?])(?=[-`'])")
# Characters that fit beside each other on a page of `article`, and as how many the space between two columns counts.
_LATEX_WIDE, _LATEX_SPACE = 68, 2.5
# Characters of notes that fit below a table on its page; more follow the table, and may go on to the next page.
_LATEX_NOTES = 2500
# Markdown's special characters; an underscore within a word is none.
_MARKDOWN = re.compile(r"[\\|`*<>\[\]]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def _plain(text: str) -> str:
  """A text in one line, without control codes."""
  return shown(" ".join(text.splitlines()))


def _in_latex(character: str) -> str:
  if character in _LATEX or _LATEX_LETTERS.match(character):
    return _LATEX.get(character, character)
  return "".join(map(_in_latex, ascii(character)[1:-1]))


def _in_html(text: str) -> str:
  """A line may end after an underscore, as in the name of a folder, but in no digest or version."""
  return html.escape(_plain(text)).replace("_", "_<wbr>")


def csv_of(records: Sequence[Mapping[str, Value]]) -> str:
  """CSV: a line of names, and one for each record; a number or a text a cell, None is empty."""
  plain = lambda value: _plain(value) if isinstance(value, str) else value
  text = io.StringIO()
  writer = csv.DictWriter(text, dict.fromkeys(_plain(name) for each in records for name in each), lineterminator="\n")
  writer.writeheader()
  writer.writerows({_plain(name): plain(value) for name, value in each.items()} for each in records)
  return text.getvalue()


@dataclasses.dataclass(frozen=True)
class Grid:
  """A table.

  title:   above it
  columns: their heads
  rows:    a text for each column
  notes:   lines under it
  left:    number of columns aligned left; the others hold numbers, aligned right
  records: the same as data, for CSV
  """

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[str]]
  notes: Sequence[str] = ()
  left: int = 1
  records: Sequence[Mapping[str, Value]] = ()

  def rich(self) -> rich.table.Table:
    """For a terminal; square brackets are text, not rich's markup."""
    result = rich.table.Table(
      title=Text(_plain(self.title), "table.title"),
      caption=Text("\n".join(map(_plain, self.notes)), "table.caption") if self.notes else None,
      title_justify="left",
      caption_justify="left",
    )
    for number, column in enumerate(self.columns):
      result.add_column(Text(_plain(column)), justify="left" if number < self.left else "right", overflow="fold")
    for row in self.rows:
      result.add_row(*(Text(_plain(cell)) for cell in row))
    return result

  def markdown(self) -> str:
    """A Markdown table and its notes."""
    escape = lambda text: _MARKDOWN.sub(lambda mark: "\\" + mark[0], _plain(text))
    lines = [f"**{escape(self.title)}**", "", "| " + " | ".join(map(escape, self.columns)) + " |"]
    lines.append("|" + "|".join("---" if number < self.left else "---:" for number in range(len(self.columns))) + "|")
    lines += ["| " + " | ".join(map(escape, row)) + " |" for row in self.rows]
    return "\n".join([*lines, "", *(f"- {escape(note)}" for note in self.notes)]).rstrip() + "\n"

  def latex(self) -> str:
    """A `table` with `booktabs` rules and its notes; a wide one is scaled to the text's width (`graphicx`)."""
    escape = lambda text: _LATEX_JOINED.sub("{}", "".join(map(_in_latex, _plain(text))))
    line = lambda cells: "  " + " & ".join(map(escape, cells)) + r" \\"
    letters = "l" * self.left + "r" * (len(self.columns) - self.left)
    widest = [max(len(_plain(cell)) for cell in column) for column in zip(self.columns, *self.rows, strict=True)]
    wide = sum(each + _LATEX_SPACE for each in widest) > _LATEX_WIDE
    notes = [f"  \\par\\footnotesize\\raggedright {escape(note)}" for note in self.notes]
    fit = sum(map(len, self.notes)) <= _LATEX_NOTES
    return "\n".join(
      [
        "% needs the packages booktabs and graphicx" if wide else "% needs the package booktabs",
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{escape(self.title)}}}",
        r"  \smallskip",
        *([r"  \resizebox{\linewidth}{!}{%"] * wide),
        f"  \\begin{{tabular}}{{{letters}}}",
        r"  \toprule",
        line(self.columns),
        r"  \midrule",
        *map(line, self.rows),
        r"  \bottomrule",
        r"  \end{tabular}" + "}" * wide,
        *(notes if fit else []),
        r"\end{table}",
        *([] if fit else ["{", *notes, r"  \par", "}"]),
        "",
      ]
    )

  def csv(self) -> str:
    """Its records, see `csv_of`."""
    return csv_of(self.records)

  def html(self) -> str:
    """A <table> with its caption, and a list of its notes."""

    def row(cells: Sequence[str], tag: str) -> str:
      kinds = ["" if number < self.left else ' class="number"' for number in range(len(cells))]
      return "".join(f"<{tag}{kind}>{_in_html(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = "\n".join(f"<tr>{row(cells, 'td')}</tr>" for cells in self.rows)
    notes = "".join(f"<li>{html.escape(_plain(note))}</li>" for note in self.notes)
    title = html.escape(_plain(self.title))
    return (
      f"<table>\n<caption>{title}</caption>\n<thead><tr>{row(self.columns, 'th')}</tr></thead>\n"
      f"<tbody>\n{body}\n</tbody>\n</table>\n" + (f'<ul class="notes">{notes}</ul>\n' if notes else "")
    )
