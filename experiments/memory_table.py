"""Memory of a training step under every remat policy, by depth, as compiled for this machine.

  python experiments/memory_table.py --depths 22 40 64 100 --picture docs/memory.png

Temporaries of the compiled step: what training needs besides parameters, momentum and the batch.
"""

import pathlib

import rich.console
import rich.table
import tyro

from dn_jax import command_line, planner
from dn_jax.configuration import ConfigurationError, ModelConfig
from dn_jax.models import build, remat
from dn_jax.report import memory


def main(
  depths: tuple[int, ...] = (22, 40, 64, 100),
  growth_rate: int = 12,
  batch_size: int = 64,
  picture: pathlib.Path | None = None,
) -> None:
  """Compiles DenseNet-BC's training step on 32x32 pictures for every depth and policy.

  Args:
    depths: L.
    growth_rate: k.
    batch_size: pictures a step.
    picture: where to draw the table (PNG).
  """
  if batch_size < 1:
    raise ConfigurationError("batch-size", batch_size, "must be at least 1")
  if picture and not picture.parent.is_dir():
    raise ConfigurationError("picture", picture, "its folder does not exist")
  configs = {
    (policy, depth): build.complete(ModelConfig(depth=depth, growth_rate=growth_rate, remat=policy))
    for depth in depths
    for policy in remat.POLICIES
  }
  console = rich.console.Console()
  found = {}
  for (policy, depth), config in configs.items():
    with console.status(f"compiling L={depth}, {policy}"):
      found[policy, depth] = planner.plan(build.build(config, 10), (32, 32, 3), batch_size)
  table = rich.table.Table(
    title=f"DenseNet-BC, k={growth_rate}, batch {batch_size}, float32, 32x32: MiB of temporaries",
    caption="in brackets: FLOPs of the step against those without rematerialisation",
  )
  for column in ("L", *remat.POLICIES):
    table.add_column(column, justify="right", no_wrap=True)
  for depth in depths:
    base = found["none", depth].flops
    cells = [found[policy, depth] for policy in remat.POLICIES]
    table.add_row(str(depth), *(f"{cell.temporaries / 2**20:,.0f} ({cell.flops / base:.2f}x)" for cell in cells))
  console.print(table)
  if picture:
    sizes = {policy: [found[policy, depth].temporaries for depth in depths] for policy in remat.POLICIES}
    memory.draw(depths, sizes, f"DenseNet-BC (k={growth_rate}), batch {batch_size}, float32", picture)
    console.print(f"picture: {picture}")


if __name__ == "__main__":
  command_line.main(lambda: tyro.cli(main))
