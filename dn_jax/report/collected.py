"""Everything there is to see of a collection of runs, written into a folder."""

import pathlib
import re
import sys
from collections.abc import Sequence

import rich.console
from matplotlib import pyplot

from dn_jax import collection, folders
from dn_jax.collection import Collection, Run
from dn_jax.configuration import ConfigurationError
from dn_jax.report import ablation, page, picture, pictures, published_table
from dn_jax.report.grid import Grid


def write(found: Collection, folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes tables (.md, .tex, .csv), pictures (.png, .svg) and report.html, which holds them all.

  Args:
    found: the collection; all that is written follows from it.
    folder: where to; made.

  Returns:
    What was written, the page first.

  Raises:
    ConfigurationError: the folder cannot be written.
  """
  tables = [("table", ablation.table(ablation.cells_of(found.runs), "Test error"))]
  if entries := published_table.entries_of(found.runs):
    tables.insert(0, ("cifar_table", published_table.table(entries)))
  written, drawn = [folder / "report.html"], []
  figures = pictures.draw(found.runs)
  try:
    folders.make(folder)
    for name, grid in tables:
      for suffix, text in (("md", grid.markdown()), ("tex", grid.latex()), ("csv", grid.csv())):
        folders.write_whole(folder / f"{name}.{suffix}", text)
        written.append(folder / f"{name}.{suffix}")
    for name, figure in figures:
      path = folder / re.sub(r"[^\w+]+", "_", name.lower())
      drawn.append((name, picture.svg(figure)))
      folders.write_whole(path.with_name(path.name + ".svg"), drawn[-1][1])
      picture.save(figure, path.with_name(path.name + ".png"))
      written += [path.with_name(path.name + suffix) for suffix in (".png", ".svg")]
    folders.write_whole(written[0], page.page(found, f"Runs in {found.folder}", [grid for _, grid in tables], drawn))
  except OSError as error:
    raise ConfigurationError("out", folder, f"cannot be written ({error.strerror}); give another folder") from None
  finally:
    for _, figure in figures:
      pyplot.close(figure)
  return written


def conclude(table: Grid, done: Sequence[Run], out: pathlib.Path, console: rich.console.Console) -> None:
  """The end of a sweep: prints its table, writes the report of the folder, names what failed.

  Args:
    table: of the sweep.
    done: its runs as they lie on disk.
    out: folder of the runs.
    console: where to.

  Raises:
    SystemExit: with code 1, where runs failed.
    ConfigurationError: the report cannot be written.
  """
  console.print(table.rich())
  for path in write(collection.read(out), out / collection.REPORT):
    console.print(str(path), highlight=False, markup=False)
  if failed := [run for run in done if run.failure]:
    print(f"{len(failed)} of {len(done)} runs failed; why: log.txt in their folders", file=sys.stderr)
    sys.exit(1)
