"""Lists every published network: parameters counted here and as published, FLOPs, published errors.

  python -m dn_jax zoo
  python -m dn_jax zoo --matching wide

python -m dn_jax summary --model.name NAME shows one of them layer by layer.
"""

from dn_jax.commands import command_line
from dn_jax.config import zoo as networks
from dn_jax.errors import ConfigurationError, near


def zoo(matching: str = "") -> None:
  """Lists every published network.

  Args:
    matching: list only the networks whose names contain this, in capitals or not.
  """
  import rich.table

  entries = [entry for entry in networks.NETWORKS.values() if matching.lower() in entry.name]
  if not entries:
    raise ConfigurationError("matching", matching, near(matching, networks.NETWORKS, networks.LISTED))
  table = rich.table.Table(
    title="The zoo",
    caption="parameters with 10 classes (ImageNet's: 1000); FLOPs an image, a multiply-add counted "
    "as two; errors in percent as published",
  )
  for column, justify in (
    ("--model.name", "left"),
    ("parameters", "right"),
    ("published", "right"),
    ("GFLOPs", "right"),
    ("published error", "left"),
  ):
    table.add_column(column, justify=justify, no_wrap=column != "published error")
  for entry in entries:
    table.add_row(
      entry.name,
      f"{entry.counted.parameters:,}",
      f"{entry.parameters}M" if entry.parameters else "",
      f"{entry.counted.flops / 1e9:.2f}",
      "  ".join(
        f"{column.upper() if column in networks.COLUMNS else column} {error:.2f}"
        for column, error in entry.errors.items()
      ),
    )
  command_line.console().print(table)


main = command_line.program(zoo, __doc__)
