"""Compares the training step with a record of the PyTorch implementation.

  python experiments/parity.py tests/fixtures/pytorch_bc22_k12.npz

Prints the worst relative difference of each kind beside its tolerance; exit code 1 if one is exceeded.
"""

import json
import pathlib
import sys
from typing import Annotated

import rich.box
import rich.table
import tyro

from dn_jax.commands import command_line
from dn_jax.config.schema import NOT_WRITTEN, RematPolicy
from dn_jax.system import compilation
from dn_jax.training import parity


def main(
  record: Annotated[pathlib.Path, tyro.conf.Positional],
  remat: RematPolicy = "layer_by_layer",
  json_path: Annotated[pathlib.Path | None, tyro.conf.arg(name="json"), NOT_WRITTEN] = None,
) -> None:
  """Compares the training step with a record of the PyTorch implementation, in float64 and float32.

  Args:
    record: read this .npz file, see tests/fixtures/README.md.
    remat: choose which activations the backward pass keeps and which it recomputes.
    json_path: write the differences into this file.
  """
  command_line.check_file("json", json_path)
  read = parity.read(record)
  results = {dtype: parity.compare(read, remat, dtype) for dtype in ("float64", "float32")}
  table = rich.table.Table(title=f"{record.name}, remat {remat}", box=rich.box.SIMPLE)
  for name, justify in (("compared", "left"), ("worst", "right"), ("tolerance", "right"), ("", "left")):
    table.add_column(name, justify=justify, no_wrap=True)
  for dtype, differences in results.items():
    table.add_section()
    for one in differences:
      table.add_row(
        f"{dtype} {one.kind}",
        f"{one.worst:.1e}",
        f"{one.tolerance:.0e}",
        "" if one.fits else f"EXCEEDED at {one.where}",
      )
  command_line.console().print(table)
  if any(one.kind == "step-0 gradients" and not one.fits for one in results["float32"]):
    flipped, inputs = parity.flipped_relus(read)
    print(
      f"float32: {flipped} of {inputs:,} inputs of ReLUs change sign by rounding. Each changes gradients by what "
      "passes there, in any float32 program, PyTorch's too; float64 tells whether the programs are the same."
    )
  if json_path:
    json_path.write_text(
      json.dumps(
        {dtype: [one._asdict() | {"fits": one.fits} for one in found] for dtype, found in results.items()}, indent=2
      )
    )
  sys.exit(0 if all(one.fits for found in results.values() for one in found) else 1)


if __name__ == "__main__":
  compilation.keep_compiled_programs()
  command_line.program(main, __doc__)()
