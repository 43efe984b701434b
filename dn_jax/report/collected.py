"""Everything there is to see of a collection of runs, written into a folder."""

import pathlib

from dn_jax.collection import Collection
from dn_jax.report import ablation
from dn_jax.runs import write_atomically


def write(found: Collection, folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes table.txt/md/tex/csv; returns what it wrote."""
  folder.mkdir(parents=True, exist_ok=True)
  cells = ablation.cells_of(found.runs)
  grid = ablation.table(cells, "Test error")
  written = []
  for suffix, text in (("md", grid.markdown()), ("tex", grid.latex()), ("csv", grid.csv())):
    path = folder / f"table.{suffix}"
    write_atomically(path, text)
    written.append(path)
  return written
