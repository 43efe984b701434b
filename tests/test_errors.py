"""Mistakes that a person can mend."""

import pickle

from dn_jax.errors import ConfigurationError


def test_a_mistake_of_another_process_is_the_same_line_here():
  error = pickle.loads(pickle.dumps(ConfigurationError("epochs", 0, "must be at least 1")))
  assert (str(error), error.flag, error.fits) == ("--epochs 0: must be at least 1", "epochs", "must be at least 1")
