"""A run's configuration as it starts: resolved, and its weights on this machine, of the commit that it began with."""

import dataclasses
import pathlib
from collections.abc import Callable

from dn_jax.config import size, weights_file
from dn_jax.config.resolve import resolve
from dn_jax.config.schema import RunConfig
from dn_jax.config.weights_file import SUFFIXES
from dn_jax.errors import ConfigurationError
from dn_jax.runs import records
from dn_jax.system import folders, hub


def resolved(config: RunConfig, say: Callable[[str], None]) -> RunConfig:
  """`dn_jax.config.resolve.resolve`, after a hub's file of weights is fetched.

  `weights` then names its commit. A run that began keeps that of its record, also where the branch has moved on since.

  Args:
    config: as the person asked for it.
    say: told before a file is fetched.

  Raises:
    UserError: a flag's value does not fit, there is no such file, its digest is another, or it needs many times this
      machine's memory.
  """
  if config.weights is None or not hub.is_address(config.weights):
    if config.weights and config.weights_digest and config.weights.is_file():
      _check_digest(config, hub.digest_of(config.weights), config.weights)
    return _within(resolve(_as_recorded(config)))
  asked = hub.address_of("weights", config.weights)
  begun = config.out and _begun(folders.of("out", config.out), asked)
  result = resolve(_with_weights(config, asked, begun, say))
  if config.out is None and (begun := _begun(result.out, asked)):
    result = resolve(_with_weights(config, asked, begun, say))
  return _within(result)


def _within(config: RunConfig) -> RunConfig:
  size.refuse_beyond_this_machine(config)
  return config


def _as_recorded(config: RunConfig) -> RunConfig:
  """A configuration whose file of weights is gone, with what that said of its network from the record of its run."""
  if config.weights is None or config.weights.exists():
    return config
  folder = folders.of("out", config.out) if config.out else resolve(config).out
  if not (folder / "config.json").exists():
    return config
  return dataclasses.replace(config, model=weights_file.joined(config.model, records.read_config(folder).model))


def _begun(folder: pathlib.Path, asked: hub.Address) -> RunConfig | None:
  """The record of a run that began from the weights that are asked for, whichever commit that was."""
  if not (folder / "config.json").exists():
    return None
  recorded = records.read_config(folder)
  if not hub.is_address(recorded.weights):
    return None
  theirs = hub.address_of("weights", recorded.weights)
  is_same = (
    theirs.repository == asked.repository
    and asked.file in (None, theirs.file)
    and asked.branch in (theirs.branch, recorded.weights_revision)
  )
  return recorded if is_same else None


def _with_weights(
  config: RunConfig, asked: hub.Address, begun: RunConfig | None, say: Callable[[str], None]
) -> RunConfig:
  """A configuration whose weights are a file of a commit, in the cache."""
  wanted, revision = asked, config.weights_revision
  if begun:
    wanted, revision = hub.address_of("weights", begun.weights), begun.weights_revision
    if not asked.is_of_a_commit:
      say(f"{asked}: this run began with commit {wanted.branch}")
  found = hub.fetch("weights", wanted, SUFFIXES, say)
  for each in filter(None, (config, begun)):
    _check_digest(each, found.digest, found.address)
  revision = revision if asked.is_of_a_commit else asked.branch
  return dataclasses.replace(config, weights=found.address.path, weights_digest=found.digest, weights_revision=revision)


def _check_digest(config: RunConfig, found: str, what: object) -> None:
  if config.weights_digest not in (None, found):
    raise ConfigurationError("weights-digest", config.weights_digest, f"{what} has {found}")
