"""The house rules that a machine can check."""

import ast
import re

from conftest import ROOT

PACKAGE = ROOT / "dn_jax"


def rooms():
  """The rooms of docs/structure.md, from the top down: folders and single files of the package."""
  listed = re.findall(r"^      (\w+)(?:/|\.py) ", (ROOT / "docs" / "structure.md").read_text(), re.MULTILINE)
  return [name for name in listed if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()]


def modules():
  """Each module of the package with the modules of the package that it imports, anywhere in it."""
  named = lambda path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
  paths = {named(path): path for path in PACKAGE.rglob("*.py")}
  result = {}
  for module, path in paths.items():
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dn_jax"):
        found |= {full if (full := f"{node.module}.{alias.name}") in paths else node.module for alias in node.names}
      elif isinstance(node, ast.Import):
        found |= {alias.name for alias in node.names if alias.name.startswith("dn_jax.")}
    result[module] = found & set(paths)
  return result


def room(module):
  return module.split(".")[1]


def test_every_module_is_in_a_listed_room():
  listed = rooms()
  assert len(listed) == 16
  there = {path.stem for path in PACKAGE.iterdir() if path.name not in ("__init__.py", "__pycache__", "py.typed")}
  assert there == set(listed)


def test_imports_point_down_the_list():
  order = rooms()
  upward = [
    f"{module} imports {other}"
    for module, imported in modules().items()
    for other in imported
    if "." in module and "." in other and order.index(room(module)) > order.index(room(other))
  ]
  assert upward == []


def test_no_modules_of_a_room_import_each_other_in_a_circle():
  imported = {module: {each for each in others if each != module} for module, others in modules().items()}
  while ends := {module for module, others in imported.items() if not others}:
    imported = {module: others - ends for module, others in imported.items() if module not in ends}
  assert imported == {}


def test_no_file_is_long():
  long = {
    str(path.relative_to(ROOT)): n
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    if (n := len(path.read_text().splitlines())) > 400
  }
  assert long == {}


def parameters(function):
  """Of a function as it stands in a file, all but `self`."""
  found = function.args
  names = [each.arg for each in (*found.posonlyargs, *found.args, *found.kwonlyargs)]
  return [name for name in names if name not in ("self", "cls")]


def test_no_function_has_more_than_seven_parameters():
  long = [
    f"{path.relative_to(ROOT)}: {node.name}"
    for path in PACKAGE.rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef) and len(parameters(node)) > 7
  ]
  assert long == []


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
