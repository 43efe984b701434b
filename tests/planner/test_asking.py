"""A compiler in a process of its own: what it says, how it fails, and that it can be stopped."""

import time

import pytest

from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.errors import ConfigurationError
from dn_jax.planner import asking
from dn_jax.planner.plan import Question

ASKED = Question(complete_model(ModelConfig(blocks=(1,), growth_rate=4, remat="none")), 10, (8, 8, 1), 8)


@pytest.mark.slow
def test_a_process_answers_or_says_why_not_or_is_stopped(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  found, compiler, minutes = asking.ask(ASKED, "here", 10)
  assert found.temporaries > 0
  assert "1 x cpu" in compiler
  assert 0 < minutes < 10
  # A mistake comes through as one, with its flag; the platform is one that this machine does not have.
  with pytest.raises(ConfigurationError, match="--target v5: did you mean"):
    asking.ask(ASKED, "v5", 10)
  begin = time.monotonic()
  with pytest.raises(asking.Unfinished) as late:
    asking.ask(Question(ASKED.model, 10, (9, 9, 1), 8), "here", 1e-4)
  assert "1 x cpu" in late.value.compiler
  assert time.monotonic() - begin < 60
