"""The house rules that a machine can check."""

import ast
import re

from conftest import ROOT

PACKAGE = ROOT / "dn_jax"


def rooms():
  """Modules in the order of docs/structure.md, a folder without listed files standing for all of its own."""
  listed, folders = [], {}
  for line in (ROOT / "docs" / "structure.md").read_text().splitlines():
    if match := re.match(r"^    ( *)([\w/.]+)", line):
      depth, name = len(match[1]) // 2, match[2]
      if name.endswith("/"):
        folders = {d: f for d, f in folders.items() if d < depth} | {depth: name.rstrip("/")}
        path = [folders[d] for d in sorted(folders)]
      else:
        path = [folders[d] for d in sorted(folders) if d < depth] + [name.removesuffix(".py")]
      listed.append(".".join(path))
  return [name for name in listed if name.startswith("dn_jax.")]


def place(module, order):
  while module not in order:
    module = module.rpartition(".")[0]
    assert module, "a module that docs/structure.md does not list"
  return order.index(module)


def test_imports_point_down_the_list_and_every_module_is_on_it():
  order = rooms()
  assert len(order) > 15
  for path in PACKAGE.rglob("*.py"):
    if path.name == "__init__.py":
      continue
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dn_jax"):
        for alias in node.names:
          full = f"{node.module}.{alias.name}"
          is_module = (ROOT / (full.replace(".", "/") + ".py")).exists()
          target = full if is_module else node.module
          assert place(target, order) >= place(module, order), f"{module} imports {target}, which stands above it"


def test_no_file_is_long():
  long = {path.name: n for path in PACKAGE.rglob("*.py") if (n := len(path.read_text().splitlines())) > 420}
  assert long == {}


def in_no_short_run(source):
  """The tests of a file that `make test` leaves out, all their cases."""
  functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
  return {each.name for each in functions if "pytest.mark.thorough" in map(ast.unparse, each.decorator_list)}


def test_every_test_that_the_protocol_page_names_exists_and_is_run_by_make_test():
  named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "protocol.md").read_text()))
  assert len(named) > 20
  written = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
  assert {name for name in named if f"def {name}(" not in written} == set()
  assert named & in_no_short_run(written) == set()
