"""Writes the report of a collection of runs: tables, figures, and an HTML page that holds them."""

import collections
import contextlib
import html
import itertools
import math
import pathlib
import re
import sys
from collections.abc import Sequence

import rich.console

from dn_jax.config.nested import identity
from dn_jax.errors import ConfigurationError, shown_lines
from dn_jax.report import ablation, departures, provenance, published_table, style
from dn_jax.report.ablation import common_flags
from dn_jax.report.figures import draw
from dn_jax.report.grid import Grid
from dn_jax.report.words import in_words
from dn_jax.runs import collection, rounding
from dn_jax.runs.collection import Collection, Run
from dn_jax.system import folders


def write(found: Collection, folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes tables (.md, .tex, .csv), figures (.png, .svg) and report.html, which holds them all.

  Runs whose records differ are left out, and named on the page and on standard error.

  Returns:
    The paths of the files, report.html first.

  Raises:
    UserError: the folder cannot be written, or no run is left.
  """
  before, found = len(found.skipped), provenance.agreeing(found)
  for line in found.skipped[before:]:
    print(shown_lines(line), file=sys.stderr)
  tables = [("table", ablation.table(ablation.cells_of(found.runs), "Test error"))]
  if entries := published_table.entries_of(found.runs):
    tables.insert(0, ("cifar_table", published_table.table(entries)))
  written, drawn = [folder / "report.html"], []
  try:
    # Beside the runs stands what somebody else may have put there.
    (folders.make_own if folder == found.folder / collection.REPORT else folders.make)(folder)
    for name, grid in tables:
      for suffix, text in (("md", grid.markdown()), ("tex", grid.latex()), ("csv", grid.csv())):
        folders.write_whole(folder / f"{name}.{suffix}", text)
        written.append(folder / f"{name}.{suffix}")
    for name, figure in draw(found.runs):
      path = folder / re.sub(r"[^\w+]+", "_", name.lower())
      drawn.append((name, style.svg(figure)))
      folders.write_whole(path.with_name(path.name + ".svg"), drawn[-1][1])
      style.save(figure, path.with_name(path.name + ".png"))
      written += [path.with_name(path.name + suffix) for suffix in (".png", ".svg")]
    folders.write_whole(written[0], _page(found, f"Runs in {found.folder}", [grid for _, grid in tables], drawn))
  except OSError as error:
    raise ConfigurationError("out", folder, f"cannot be written ({error.strerror}); give another folder") from None
  return written


def conclude(table: Grid, done: Sequence[Run], out: pathlib.Path, console: rich.console.Console) -> None:
  """Ends a sweep: prints its table, writes the report of its folder `out`, counts the failures.

  Raises:
    SystemExit: code 1: some runs failed.
    ConfigurationError: the report cannot be written.
  """
  console.print(table.rich())
  for path in write(collection.read(out), out / collection.REPORT):
    console.print(str(path), highlight=False, markup=False)
  if failed := [run for run in done if run.failure]:
    print(f"{len(failed)} of {len(done)} runs failed; why: log.txt in their folders", file=sys.stderr)
    sys.exit(1)


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; margin: 1em 0 } caption { text-align: left; font-weight: 600; padding: .3em 0 }
th, td { padding: .2em .7em; border-bottom: 1px solid #ddd; text-align: left }
th { border-bottom: 2px solid #888; white-space: nowrap }
.number { text-align: right; font-variant-numeric: tabular-nums } .notes { color: #555; font-size: .9em }
pre { background: #f5f5f5; padding: .7em; overflow-x: auto; font-size: .85em } svg { max-width: 100%; height: auto }
td { overflow-wrap: break-word }
"""


def _page(found: Collection, title: str, tables: Sequence[Grid], drawn: Sequence[tuple[str, str]]) -> str:
  """The HTML page: tables first, then figures (`drawn`: name and SVG), configuration, runs and failures."""
  finished = sum(1 for run in found.runs if run.summary)
  failed = [run for run in found.runs if run.failure]
  parts = [
    f"<h1>{_escaped(title)}</h1>",
    f"<p>{len(found.runs)} runs of {len(ablation.cells_of(found.runs))} cells: {finished} finished, "
    f"{len(failed)} failed, {len(found.runs) - finished - len(failed)} not finished.</p>",
    *(grid.html() for grid in tables),
  ]
  # The <svg> element alone: the head of the file links to the definition of its format.
  parts += [f"<h2>{_escaped(name)}</h2>\n{svg[svg.index('<svg') :]}" for name, svg in drawn]
  parts += ["<h2>Configuration</h2>", _common(found.runs).html(), _differences(found.runs).html()]
  parts += ["<h2>Runs</h2>", _runs(found.runs).html()]
  if failed:
    parts.append("<h2>Failures</h2>")
    for run in failed:
      parts.append(f"<h3>{_escaped(str(run.folder))}</h3>\n<p>{_escaped(run.failure.error)}</p>")
      with contextlib.suppress(OSError):  # It was started by hand, and has none.
        tail = folders.read(run.folder / "log.txt").decode(errors="replace").splitlines()[-25:]
        parts.append(f"<pre>{_escaped(chr(10).join(tail))}</pre>")
  if found.skipped:
    lines = "".join(f"<li>{_escaped(line)}</li>" for line in found.skipped)
    parts.append(f"<h2>Skipped</h2>\n<ul>{lines}</ul>")
  body = "\n".join(parts)
  return (
    f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{_escaped(title)}</title>\n'
    f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
  )


def _escaped(text: str) -> str:
  """A text of several lines in HTML, without characters that XML forbids."""
  return html.escape(shown_lines(text))


def _common(found: Sequence[Run]) -> Grid:
  """Flags with one value, in two halves beside each other: both are narrow, and there are many."""
  flags = [[f"--{flag}", in_words(value) or "none"] for flag, value in common_flags(found).items() if value is not None]
  half = math.ceil(len(flags) / 2)
  pairs = itertools.zip_longest(flags[:half], flags[half:], fillvalue=["", ""])
  return Grid("The same in all runs", ["flag", "value"] * 2, [[*left, *right] for left, right in pairs], left=4)


def _differences(found: Sequence[Run]) -> Grid:
  """Flags with several values, and the number of runs with each."""
  common = common_flags(found)
  everything = [identity(run.config) for run in found]
  rows = []
  for flag in dict.fromkeys(itertools.chain.from_iterable(everything)):
    if flag not in common:
      counted = collections.Counter(in_words(one.get(flag)) for one in everything)
      rows.append([f"--{flag}", ", ".join(f"{value or 'none'} ({count} runs)" for value, count in counted.items())])
  return Grid("What differs", ["flag", "values"], rows, left=2)


def _runs(found: Sequence[Run]) -> Grid:
  rows = []
  for run in (run for cell in ablation.cells_of(found) for run in cell.runs):
    summary, images = run.summary, departures.images(run)
    state = rounding.in_words(run.test_error) if summary else "failed" if run.failure else "not finished"
    commit = (summary and summary.commit) or ""
    rows.append(
      [
        run.folder.name,
        run.key,
        summary.devices if summary else "",
        f"{commit[:10]}{'+' if commit.endswith('+') else ''}",
        summary.versions.get("jax", "") if summary else "",
        str(run.config.seed),
        f"{images[0]:,}" if images else "",
        state,
        str(summary.reported_epoch) if summary else "",
        f"{summary.seconds:,.0f}" if summary else "",
      ]
    )
  columns = ["folder", "key", "devices", "code", "JAX", "seed", "images", "test error, %", "epoch", "training, s"]
  notes = [
    "key: of the flags that say what the run is (dn_jax/runs/collection.py)",
    "images: for training, those held out included",
  ]
  return Grid("Every run", columns, rows, notes, left=5)
