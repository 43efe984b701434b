"""SGD as published, out of optax's parts."""

import collections
import math

import jax.numpy as jnp
import optax

from dn_jax.configuration import OptimizerConfig


def drop_epochs(config: OptimizerConfig, epochs: int) -> list[int]:
  """Epochs, counted from 0, that are the first at a lower rate: 150 and 225 of 300.

  They are the first e with e >= share * epochs (rounded to nine places: 0.1 * 30 is 3).
  """
  return [math.ceil(round(share * epochs, 9)) for share in config.drops]


def learning_rate(config: OptimizerConfig, epochs: int, steps_per_epoch: int) -> optax.Schedule:
  """The rate of a step, counted from 0 over the whole run.

  `steps`: multiplied by `drop_factor` at each of `drops` (shares of the epochs), on whole epochs; the
  authors' Torch code, which counts epochs from 1, drops one epoch earlier than its PyTorch successor and
  this. `cosine`: lr / 2 * (1 + cos(pi * t / T)) with t counted from 1, so that the last step's rate is 0.
  The first `warmup_steps` have a tenth of what the schedule says.
  """
  schedule = _schedule(config, epochs, steps_per_epoch)
  if not config.warmup_steps:
    return schedule
  return lambda step: schedule(step) * jnp.where(step < config.warmup_steps, 0.1, 1.0)


def _schedule(config: OptimizerConfig, epochs: int, steps_per_epoch: int) -> optax.Schedule:
  if config.schedule == "cosine":
    cosine = optax.cosine_decay_schedule(config.learning_rate, epochs * steps_per_epoch)
    return lambda step: cosine(step + 1)
  boundaries: dict[int, float] = collections.defaultdict(lambda: 1.0)
  for epoch in drop_epochs(config, epochs):
    boundaries[epoch * steps_per_epoch] *= config.drop_factor
  return optax.piecewise_constant_schedule(config.learning_rate, dict(boundaries))


def sgd(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
  """Torch's SGD: decay added to the gradient, momentum without dampening, then the rate.

  d = g + weight_decay * w;  b = momentum * b + d;  w -= rate * (d + momentum * b)  (Nesterov)
  """
  return optax.chain(
    optax.add_decayed_weights(config.weight_decay),
    optax.sgd(schedule, config.momentum or None, nesterov=config.nesterov),
  )
