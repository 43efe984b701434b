"""What the process of `dn_jax.sweep.memory` is asked in place of `answer`: it imports this, so nothing takes long."""

import os
import time


def answer(config, found):
  """Dies of growth rate 4; of others, says which and the process's number."""
  if config.model.growth_rate == 4:
    os.kill(os.getpid(), 9)
  return config.model.growth_rate, str(os.getpid())


def sleeps(config, found):
  print(os.getpid(), flush=True)
  time.sleep(600)
