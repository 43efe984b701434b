"""Commands on the pages and in examples/, the scripts there, and the Dockerfile: what they name exists."""

import configparser
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, call

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Dockerfile", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").iterdir())
# A script with or without a word, or the package with a command, and of `picture` with a word.
_PROGRAM = re.compile(r"(?:experiments/|\bdn[-_]jax )(?P<name>[a-z]\w*)(?:\.py)?(?: (?P<word>[a-z]\w*))?")
_END = re.compile(r"[`;|]| # | *$")


def text_of(path) -> str:
  """Of a notebook that of its cells; each command on one line."""
  text = path.read_text()
  if path.suffix == ".ipynb":
    text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
  return re.sub(r" *\\\n[ #]*", " ", text)


def asked(path) -> list[tuple[str, str, str]]:
  """The flags that a file's commands have: the command, of `picture` its first word too, and the flag."""
  found = []
  for line in text_of(path).splitlines():
    for program in _PROGRAM.finditer(line):
      words = line[program.end() : _END.search(line, program.end()).start()]
      name, word = program["name"], program["word"] if program["name"] == "picture" else ""
      found += [(name, word, flag) for flag in re.findall(r"(?<= )--[a-z][\w.-]*", words)]
  return found


@functools.cache
def flags_of(name: str, word: str) -> set[str]:
  """Those that the command's help lists."""
  script = f"experiments/{name}.py"
  words = [word] if word else []
  done = call(script, *words, "--help") if (ROOT / script).exists() else call("dn_jax", name, *words, "--help")
  assert done.returncode == 0, done.stderr
  listed = re.findall(r"^(?:│ |  )((?:-\w, )?--.*?)(?:  |$)", done.stdout, re.MULTILINE)
  found = {"--debug", *re.findall(r"--[a-z][\w.-]*", "\n".join(listed))}
  return found | flags_of("train", "") if name in ("ablate", "cifar_table", "report") else found


@pytest.mark.parametrize("path", [*PAGES, *EXAMPLES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_flag_of_a_command_on_a_page_is_one_of_that_command(path):
  assert [" ".join(each) for each in asked(path) if each[2] not in flags_of(*each[:2])] == []


def test_commands_are_found_on_pages_and_in_examples():
  assert ("train", "", "--distributed.auto") in asked(ROOT / "examples" / "tpu_vm.sh")
  assert ("train", "", "--optimizer.warmup-epochs") in asked(ROOT / "examples" / "slurm.sh")
  assert ("train", "", "--model.growth-rate") in asked(ROOT / "examples" / "densenet_in_ten_minutes.ipynb")
  assert ("picture", "diagram", "--to") in asked(ROOT / "docs" / "tables.md")
  assert ("train", "", "--model.name") in asked(ROOT / "Dockerfile")
  assert ("plan", "", "--target") in asked(ROOT / "README.md")


SCRIPTS = [path for path in EXAMPLES if path.suffix == ".sh"]
# A program that writes down its name and words.
WRITES_DOWN = """#!{python}
import json, sys
with open({log!r}, "a") as file:
  print(json.dumps([{name!r}, *sys.argv[1:]]), file=file)
sys.exit({code})
"""


def carried_out(script, folder, codes: dict[str, str], **environment: str) -> tuple[int, list[list[str]]]:
  """Runs a script with programs that write down their words, and end with codes (Python, of `sys.argv`).

  Returns:
    The script's exit code, and the words of each program in turn, its name first.
  """
  log, programs = folder / "log", folder / "bin"
  programs.mkdir()
  for name, code in codes.items():
    (programs / name).write_text(WRITES_DOWN.format(python=sys.executable, log=str(log), name=name, code=code))
    (programs / name).chmod(0o755)
  path = f"{programs}:{os.environ['PATH']}"
  done = subprocess.run(["bash", script], env=os.environ | environment | {"PATH": path}, capture_output=True, text=True)
  return done.returncode, [json.loads(line) for line in log.read_text().splitlines()]


def in_force(words: list[str]) -> dict[str, str]:
  """The configuration that `train.py` has of the words after its name, flags without their groups."""
  after = next(n for n, word in enumerate(words) if word.endswith("train.py")) + 1
  done = call("experiments/train.py", *words[after:], "--print-config")
  assert done.returncode == 0, done.stderr
  return dict(re.findall(r"^ *(\w+): (.*?) +#", done.stdout, re.MULTILINE))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_has_no_mistake_that_bash_or_shellcheck_finds(path):
  assert os.access(path, os.X_OK)
  for checker in (["bash", "-n"], ["shellcheck"]):
    if shutil.which(checker[0]):
      done = subprocess.run([*checker, path], capture_output=True, text=True)
      assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("code", "again"), [(0, []), (75, [["scontrol", "requeue", "7"]]), (2, [])])
def test_the_slurm_job_trains_and_goes_into_the_queue_again_only_when_it_was_interrupted(code, again, tmp_path):
  slurm = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "7", "SLURM_NTASKS": "32", "OUT": "/runs/one"}
  ended, (started, *after) = carried_out(
    ROOT / "examples" / "slurm.sh", tmp_path, {"srun": str(code), "scontrol": "0"}, **slurm
  )
  assert (ended, after) == (code, again)
  config = in_force(started)
  assert (config["out"], config["statistics_groups"]) == ('"/runs/one"', "32")


@pytest.mark.parametrize(("there", "made"), [(0, 0), (1, 1)])
def test_the_tpu_script_makes_a_slice_once_and_trains_on_all_its_hosts(there, made, tmp_path):
  given = {"SOURCE": "https://example.org/dn_jax", "BUCKET": "one", "OUT": "/runs/one"}
  code = f"{there} if 'describe' in sys.argv else 0"
  ended, (_, *called) = carried_out(ROOT / "examples" / "tpu_vm.sh", tmp_path, {"gcloud": code}, **given)
  assert ended == 0
  assert [words[4] for words in called] == ["create"] * made + ["ssh", "ssh"]
  *_, where, what = called[-1]
  assert where == "--worker=all"
  config = in_force(shlex.split(what))
  assert (config["auto"], config["statistics_groups"], config["out"]) == ("true", "16", '"/runs/one"')
  assert re.fullmatch('"gs://?one/data"', config["dir"])


def test_the_tpu_script_needs_an_address_and_a_bucket():
  command, given = [shutil.which("bash"), ROOT / "examples" / "tpu_vm.sh"], {"SOURCE": "x", "PATH": ""}
  done = subprocess.run(command, env=given, capture_output=True, text=True)
  assert (done.returncode, done.stderr.count("BUCKET: the name of a bucket")) == (1, 1)


def test_the_image_is_made_of_files_that_are_there_and_of_the_extra_of_setup_cfg():
  docker, setup = (ROOT / "Dockerfile").read_text(), configparser.ConfigParser()
  setup.read(ROOT / "setup.cfg")
  assert re.match("# .*not been built", docker)
  assert f'"{setup["options.extras_require"]["cuda"]}"' in docker
  assert "dn-jax = " in setup["options.entry_points"]["console_scripts"]
  assert 'ENTRYPOINT ["dn-jax"]' in docker
  copied = re.findall(r"^COPY (\S+) ", docker, re.MULTILINE)
  ignored = (ROOT / ".dockerignore").read_text().splitlines()
  let_through = {line[1:] for line in ignored if line.startswith("!")}
  assert copied == [".", "requirements.txt", "--from=wheel"]
  assert let_through - {".git"} <= {path.name for path in ROOT.iterdir()}
  read_by_setup = {"dn_jax", "LICENSE", "README.md", "pyproject.toml", "setup.cfg", "setup.py"}
  assert let_through >= {".git", "requirements.txt", *read_by_setup}
