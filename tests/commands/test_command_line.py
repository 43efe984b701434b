"""What every command shares."""

import io
import os
import sys

import pytest

from dn_jax.commands import command_line
from dn_jax.errors import ConfigurationError, UserError


@pytest.mark.parametrize(("encoding", "umlaut"), [("utf-8", "ü".encode()), ("ascii", rb"\xfc")])
def test_names_that_are_not_utf8_are_printed_escaped(monkeypatch, encoding, umlaut):
  name = os.fsdecode(b"caf\xe9.jpg")
  out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
  monkeypatch.setattr(sys, "stdout", out)
  monkeypatch.setattr(sys, "stderr", err)

  def command():
    print(name, "ü")
    raise UserError(f"{name}: is no image")

  with pytest.raises(SystemExit):
    command_line.main(command)
  out.flush()
  err.flush()
  assert out.buffer.getvalue() == rb"caf\xe9.jpg " + umlaut + b"\n"
  assert err.buffer.getvalue() == b"error: caf\\xe9.jpg: is no image\n"


def test_a_mistake_about_a_name_is_one_line_whatever_the_name_is():
  assert str(ConfigurationError("data.dir", "a\nb\udce9", "is not a folder")) == (
    "--data.dir a\\nb\\xe9: is not a folder"
  )
