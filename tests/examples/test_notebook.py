"""examples/densenet_in_ten_minutes.ipynb, run from a fresh kernel."""

import base64
import io
import json
import re
import sys

import matplotlib
import nbformat
import numpy as np
import pytest
from conftest import HANGS, ROOT
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from PIL import Image


def notebook():
  return nbformat.read(ROOT / "examples" / "densenet_in_ten_minutes.ipynb", as_version=4)


def code_cells(book):
  return [cell for cell in book.cells if cell.cell_type == "code"]


def printed(cell) -> str:
  return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def figures(cell) -> list[np.ndarray]:
  """Those that a cell shows, [height, width, 3] each."""
  found = [output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})]
  return [np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")) for png in found]


def test_the_notebook_is_kept_without_outputs_which_would_grow_old():
  book = notebook()
  nbformat.validate(book)
  assert [(cell.outputs, cell.execution_count) for cell in code_cells(book)] == [([], None)] * 8


@pytest.fixture
def kernel(tmp_path, monkeypatch) -> AsyncKernelManager:
  """This very Python as a kernel, which leaves no file in the person's own folders."""
  (tmp_path / "home").mkdir()
  for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "XDG_CACHE_HOME"):
    monkeypatch.setenv(name, str(tmp_path / "home" / name))
  monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # A list of the machine's fonts, which takes seconds.
  folder = tmp_path / "kernels" / "python3"
  folder.mkdir(parents=True)
  argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
  (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
  specs = KernelSpecManager(kernel_dirs=[str(tmp_path / "kernels")], ensure_native_kernel=False)
  return AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)


@pytest.mark.thorough
def test_the_notebook_trains_a_network_that_it_saves_loads_and_asks(kernel, tmp_path):
  book, work = notebook(), tmp_path / "work"
  work.mkdir()
  client = NotebookClient(book, km=kernel, timeout=HANGS, startup_timeout=HANGS, resources={"metadata": {"path": work}})
  client.execute()
  cells = {cell.id: cell for cell in code_cells(book)}
  assert cells["install"].outputs == []  # Nothing is fetched where the package is there.
  error = json.loads((work / "runs" / "digits" / "summary.json").read_text())["test_error_percent"]
  assert error < 10
  assert f"test error: {error:.2f} %" in printed(cells["train"])
  assert printed(cells["predict"]) == f"test error: {error:.2f} %\n"  # By the weights from the file.
  # The paper's network with 0.8M parameters; twice its channels are four times as many.
  counts = [int(each.replace(",", "")) for each in re.findall(r"([\d,]+) parameters", printed(cells["growth"]))]
  assert counts[1] == 769_162
  assert [counts[n + 1] / counts[n] for n in range(2)] == pytest.approx([4, 4], rel=0.05)
  kept, recomputed = map(int, re.findall(r"(\d+) MiB", printed(cells["memory"])))
  assert kept > 1.5 * recomputed > 0
  for name, least in (("curves", 600), ("reuse", 600), ("predict", 600)):
    (figure,) = figures(cells[name])
    assert figure.shape[1] > least
    assert figure.std() > 10  # Ink on it.
