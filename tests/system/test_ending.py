"""A process that has refused its task ends, whatever a library's threads wait for."""

import subprocess
import sys
import time

import pytest
from conftest import ROOT

CODE = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from dn_jax.commands import command_line
from dn_jax.errors import UserError
from dn_jax.system import ending
ending.PATIENCE = {patience}

def write():
  time.sleep({seconds})
  print("written")

def refuse():
  threading.Thread(target=write).start() if {alone} else ThreadPoolExecutor().submit(write)
  print("begun")
  raise UserError("no room")

command_line.main(refuse)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  ("seconds", "patience", "said"), [(60, 0.1, "begun\n"), (0.3, 20, "begun\nwritten\n")], ids=["waits", "works"]
)
@pytest.mark.parametrize("alone", [True, False], ids=["thread", "pool"])
def test_a_thread_that_waits_for_what_was_refused_does_not_hold_the_process(seconds, patience, said, alone):
  begin, code = time.monotonic(), CODE.format(seconds=seconds, patience=patience, alone=alone)
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout, done.stderr) == (2, said, "error: no room\n")
  assert time.monotonic() - begin < 50
