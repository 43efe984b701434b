"""What libraries print about damaged images, and what else is printed meanwhile."""

import subprocess
import sys

import pytest
from conftest import ROOT
from photographs import jpeg, photograph

from dn_jax.system import stderr

SAID = (
  b"before\nCorrupt JPEG data: 2 extraneous bytes before marker 0xd9\n"
  b"libpng warning: iCCP: known incorrect sRGB profile\n\n"
  b"Corrupt data in a file of mine\n50 %\r60 % libpng warning: within a line\nPremature end of JPEG file"
)
LEFT = b"before\nCorrupt data in a file of mine\n50 %\r60 % libpng warning: within a line\n"


@pytest.mark.parametrize("size", [1, 2, 7, 40, 1000])
def test_lines_are_dropped_however_they_are_cut(size):
  chunks = [SAID[first : first + size] for first in range(0, len(SAID), size)]
  assert b"".join(stderr.passed_on(chunks)) == LEFT


def test_what_no_library_says_does_not_wait_for_the_end_of_its_line():
  passed = stderr.passed_on([b"Continue? ", b"Corr", b"upt JPEG", b" files\n", b"Corrupt JPEG data: x"])
  assert list(passed) == [b"Continue? ", b"Corr", b"upt JPEG", b" files\n", b"", b""]
  passed = stderr.passed_on([b"Corr", b"upt JPEG", b" files\n"])
  assert list(passed) == [b"", b"", b"Corrupt JPEG files\n", b""]


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
