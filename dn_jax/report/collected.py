"""Everything there is to see of a collection of runs, written into a folder."""

import pathlib
from collections.abc import Sequence

from matplotlib import pyplot

from dn_jax.collection import Collection
from dn_jax.configuration import ConfigurationError
from dn_jax.report import ablation, page, picture, pictures
from dn_jax.report.grid import Grid
from dn_jax.runs import write_atomically


def write(found: Collection, folder: pathlib.Path, tables: Sequence[tuple[str, Grid]] = ()) -> list[pathlib.Path]:
  """Writes tables (.md, .tex, .csv), pictures (.png, .svg) and report.html, which holds them all.

  Args:
    found: the collection.
    folder: where to; made.
    tables: names and tables; by default `table`, the one of `dn_jax.report.ablation`.

  Returns:
    What was written, the page first.

  Raises:
    ConfigurationError: the folder cannot be written.
  """
  tables = tables or [("table", ablation.table(ablation.cells_of(found.runs), "Test error"))]
  written = [folder / "report.html"]
  try:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(written[0], page.page(found, f"Runs in {found.folder}", [grid for _, grid in tables]))
    for name, grid in tables:
      for suffix, text in (("md", grid.markdown()), ("tex", grid.latex()), ("csv", grid.csv())):
        write_atomically(folder / f"{name}.{suffix}", text)
        written.append(folder / f"{name}.{suffix}")
    for name, draw in pictures.drawings(found):
      figure = draw()
      for suffix in (".png", ".svg"):
        path = folder / (name.lower().replace(" ", "_") + suffix)
        picture.save(figure, path)
        written.append(path)
      pyplot.close(figure)
  except OSError as error:
    raise ConfigurationError("out", folder, f"cannot be written ({error.strerror}); give another folder") from None
  return written
