"""A compiler in a process of its own: what it says, how it fails, and that it can be stopped."""

import time

import pytest

from dn_jax.config.network import complete_model
from dn_jax.config.schema import ModelConfig
from dn_jax.errors import ConfigurationError
from dn_jax.planner import asking
from dn_jax.planner.plan import Plan, Question

ASKED = Question(complete_model(ModelConfig(blocks=(1,), growth_rate=4, remat="none")), 10, (8, 8, 1), 8)


@pytest.mark.slow
def test_a_process_answers_or_says_why_not_or_is_stopped(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  told = asking.ask(ASKED, "here", 10)
  assert told.plan.temporaries > 0
  assert "1 x cpu" in told.compiler
  assert 0 < told.minutes < 10
  # What is known of the same program by the same compiler is the answer; of another program it is none.
  known = asking.Known(told.compiler, told.program, Plan(temporaries=7))
  assert asking.ask(ASKED, "here", 10, known) == (known.plan, told.compiler, told.program, None)
  again = asking.ask(ASKED, "here", 10, known._replace(program="another"))
  assert (again.plan, again.program) == (told.plan, told.program)
  # A mistake comes through as one, with its flag; the platform is one that this machine does not have.
  with pytest.raises(ConfigurationError, match="--target v5: one of here"):
    asking.ask(ASKED, "v5", 10)
  begin = time.monotonic()
  with pytest.raises(asking.Unfinished) as late:
    asking.ask(Question(ASKED.model, 10, (9, 9, 1), 8), "here", 1e-6)
  assert "1 x cpu" in late.value.compiler
  assert late.value.program != told.program
  assert time.monotonic() - begin < 60
