"""prepare, without a network."""

from conftest import call


def test_prepare_without_tensorflow_or_with_digits_is_one_line():
  done = call("experiments/prepare.py", "--data.name", "digits")
  assert (done.returncode, done.stderr.count("\n")) == (2, 1)
  assert "ships with scikit-learn" in done.stderr
