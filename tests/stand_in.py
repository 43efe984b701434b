"""What `stand_in_train.py` needs to stand in for training, made here: there, each run would import for seconds."""

import json
import pathlib

import fabricated
from conftest import ROOT

# In place of `dn_jax.sweep.command.TRAIN`.
TRAIN = (str(ROOT / "tests" / "stand_in_train.py"),)


def prepare(data: pathlib.Path) -> pathlib.Path:
  """A folder to give as --data.dir: what the runs write down, but for how far they are and what they came to."""
  data.mkdir(exist_ok=True)
  records = {"epoch": fabricated.record(1, 0.05), "summary": fabricated.summary(fabricated.config(), 5.0)}
  (data / "records.json").write_text(json.dumps(records))
  return data
