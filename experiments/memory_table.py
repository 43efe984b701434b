"""Memory of DenseNet-BC's training step under every remat policy: by depth, batch and target.

  python experiments/memory_table.py --picture docs/memory.png
  python experiments/memory_table.py --depths 100 --batch-sizes 64 128 256 \\
    --target here v5e h100 --csv memory.csv

Temporaries of the compiled step: the memory besides parameters, momentum and the batch. Nothing is trained, and no chip
is needed: `pip install -e '.[tpu]'` brings the compiler of TPUs, `'.[cuda]'` that of GPUs.
"""

import itertools
import pathlib
from typing import Annotated, Literal

import rich.console
from annotated_types import MinLen, doc

from dn_jax.commands import command_line
from dn_jax.config.network import complete_model
from dn_jax.config.schema import NOT_WRITTEN, Count, ModelConfig, RematPolicy, Size
from dn_jax.models import remat
from dn_jax.planner import plan, targets
from dn_jax.report import plans, style
from dn_jax.system import compilation


def main(
  depths: Annotated[tuple[Size, ...], MinLen(1), doc("one or more, each {}")] = (22, 40, 64, 100),
  growth_rate: Size = 12,
  batch_sizes: Annotated[tuple[Count, ...], MinLen(1), doc("one or more, each {}")] = (64,),
  target: Annotated[tuple[str, ...], MinLen(1), doc("one or more")] = (targets.HERE,),
  policies: Annotated[tuple[RematPolicy, ...], MinLen(1), doc("one or more")] = remat.POLICIES,
  dtype: Literal["float32", "bfloat16"] = "float32",
  csv: Annotated[pathlib.Path | None, NOT_WRITTEN] = None,
  picture: Annotated[pathlib.Path | None, NOT_WRITTEN] = None,
) -> None:
  """Compiles the training step on 32x32 images for every depth, batch, target and policy.

  Args:
    depths: set L, the number of layers.
    growth_rate: set k, the number of channels that each layer adds.
    batch_sizes: take so many images per step, over all devices of a target.
    target: compile for here, for one chip (v4, v5e, v5p, v6e, h100), or for a TPU slice such as v5e:2x2.
    policies: choose which activations the backward pass keeps and which it recomputes.
    dtype: compute activations in this type.
    csv: write the table into this file, bytes and FLOPs in full.
    picture: draw a figure into this file, .svg, .png or .pdf.
  """
  command_line.check_file("csv", csv)
  command_line.check_figure("picture", picture)
  models = {
    (depth, policy): complete_model(ModelConfig(depth=depth, growth_rate=growth_rate, remat=policy, dtype=dtype))
    for depth in depths
    for policy in policies
  }
  console = rich.console.Console()
  rows = []
  for where, batch_size, depth in itertools.product(targets.targets(target), batch_sizes, depths):
    found = {}
    for policy in policies:
      with console.status(f"compiling for {where.name}: L={depth}, batch {batch_size}, {policy}"):
        found[policy] = plan.plan(plan.Question(models[depth, policy], 10, (32, 32, 3), batch_size), where)
    rows.append(plans.Row(where, batch_size, depth, found))
  title = f"DenseNet-BC, k={growth_rate}, {dtype}, 32x32"
  console.print(plans.memory_table(rows, f"{title}: MiB of temporaries on each device"))
  console.print(plans.published_table())
  if csv:
    csv.write_text(plans.csv(rows, growth_rate, dtype))
    console.print(f"table: {csv}")
  if picture:
    style.save(plans.draw(rows, title), picture)
    console.print(f"figure: {picture}")


if __name__ == "__main__":
  compilation.keep_compiled_programs()
  command_line.program(main, __doc__)()
