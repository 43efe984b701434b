"""What libraries print about damaged images, and what else is printed meanwhile."""

import subprocess
import sys

import pytest
from conftest import ROOT
from photographs import jpeg, photograph

from dn_jax.system import stderr

# What is written at once, and what of it is left.
WRITES = {
  b"before\n": b"before\n",
  b"Corrupt JPEG data: 2 extraneous bytes before marker 0xd9\n": b"",
  b"libpng warning: iCCP: known incorrect sRGB profile": b"",
  b"of another thread\n": b"of another thread\n",
  b"50 %": b"50 %",
  b"libpng error: IDAT: incorrect data check": b"",
  b"\n": b"",
  b"Corrupt data in a file of mine\nPremature end of JPEG file\nmore\n": b"Corrupt data in a file of mine\nmore\n",
  b"60 % libpng warning: within a line\n": b"60 % libpng warning: within a line\n",
  b"no end": b"no end",
}


def test_of_each_write_the_lines_of_libraries_are_dropped_and_nothing_else():
  assert list(stderr.passed_on(WRITES)) == list(WRITES.values())


def test_of_libpngs_two_writes_each_loses_its_own_end_of_line_and_no_other():
  texts = [b"libpng warning: a", b"libpng warning: b", b"\n", b"mine\n", b"\n", b"\n"]
  assert b"".join(stderr.passed_on(texts)) == b"mine\n\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a pipe joins what is written")
def test_what_is_written_while_the_process_waits_is_told_apart():
  code = "import os; from dn_jax.system import stderr; stderr.drop_lines(); stderr._started[0].send_signal(19); "
  code += "[os.write(2, text) for text in (b'libpng warning: a', b'mine\\n', b'\\n', b'\\n')]; "
  code += "stderr._started[0].send_signal(18)"
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60, check=True)
  assert done.stderr == b"mine\n\n"


CODE = """
import os, pathlib, sys
from dn_jax.config.schema import DataConfig
from dn_jax.data import sources, stream
source = sources.opened(DataConfig("folder", pathlib.Path(sys.argv[1]))).train
training = stream.Training(source, 0, 16, 4, (0, 1, 2, 3), False, 16)
if __name__ == "__main__":
  workers = int(sys.argv[2])
  list(training.batches(0, 4, workers))
  print("said by Python", file=sys.stderr)
  os.write(2, b"said by a library\\n")
  if not workers:
    os.abort()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "code"), [(0, -6), (1, 0)])
def test_damaged_images_are_decoded_without_a_word_and_last_words_come_through(tmp_path, workers, code):
  damaged = bytearray(jpeg(photograph(0)))
  damaged[-2:-2] = b"abcdef"
  for name in ("a", "b"):
    (tmp_path / "photos" / name).mkdir(parents=True)
    for n in range(10):
      (tmp_path / "photos" / name / f"{n}.jpg").write_bytes(damaged)
  (tmp_path / "code.py").write_text(CODE)
  command = [sys.executable, str(tmp_path / "code.py"), str(tmp_path / "photos"), str(workers)]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=False)
  assert done.returncode == code
  assert sorted(done.stderr.splitlines()) == ["said by Python", "said by a library"]
