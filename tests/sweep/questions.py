"""What `dn_jax.sweep.child.Child` is asked: its process imports this, so nothing is imported here that takes long."""

import os
import time

from dn_jax.errors import ConfigurationError


def killed(config):
  os.kill(os.getpid(), 9)


def refused(config):
  raise ConfigurationError("batch-size", 1, "does not fit")


def broken(config):
  raise ZeroDivisionError("a fault of ours")


def number(config):
  return 7, os.getpid()


def sleeps(config):
  print(os.getpid(), flush=True)
  time.sleep(600)
