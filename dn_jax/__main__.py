"""python -m dn_jax COMMAND, and the console command dn-jax: every command of `dn_jax.commands`."""

import importlib
import pathlib
import sys

from dn_jax import __version__
from dn_jax.errors import near

# A command is `main()` of the module of its name; the other modules are not imported.
COMMANDS = {
  "train": "train one network on one data set; started again, it goes on",
  "evaluate": "top-1 and top-5 error of a run's network, or of a file of weights",
  "predict": "what a network says of images",
  "export": "a trained network as one file: its weights, or its inference as a program",
  "ablate": "many runs from flags with several values; a table and figures of them",
  "cifar_table": "the paper's CIFAR and SVHN tables, cell by cell: published, and measured here",
  "report": "tables, figures and a page of a folder of runs; where a number comes from",
  "picture": "a figure for a paper: a network's diagram, curves, error by size, ...",
  "plan": "memory and time of a training step, on this machine or on chips that are not there",
  "zoo": "every published network: parameters, FLOPs, published errors",
  "summary": "a network layer by layer: shapes, parameters, FLOPs",
  "prepare": "download a data set and prepare it",
}


def main() -> None:
  """Runs the command that `sys.argv` names."""
  own = pathlib.Path(sys.argv[0]).name
  program = "python -m dn_jax" if own == "__main__.py" else own
  name, *words = sys.argv[1:] or [""]
  if name in ("-h", "--help"):
    print(_help(program))
  elif name == "--version":
    print(_version())
  elif name in COMMANDS:
    sys.argv = [f"{program} {name}", *words]
    importlib.import_module(f"dn_jax.commands.{name}").main()
  else:
    wrong = f"{name}: {near(name, COMMANDS)}" if name else f"no command; one of {', '.join(COMMANDS)}"
    print(f"error: {wrong}", file=sys.stderr)
    sys.exit(2)


def _help(program: str) -> str:
  width = max(map(len, COMMANDS))
  lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
  return "\n".join(
    [
      f"usage: {program} COMMAND [FLAG ...]",
      "",
      *lines,
      "",
      f"{program} COMMAND --help lists a command's flags; {program} --version says which program this is.",
    ]
  )


def _version() -> str:
  from dn_jax.system import provenance

  commit = provenance.commit()
  return f"dn_jax {__version__}" + (f", commit {commit}" if commit else "")


if __name__ == "__main__":
  main()
