"""SGD as published, and AdamW, built from optax's parts."""

import collections
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dn_jax.config.schema import OptimizerConfig


def drop_epochs(config: OptimizerConfig, epochs: int) -> list[int]:
  """The first epochs, counted from 0, at each lower rate: 150 and 225 of 300.

  Each is the smallest e >= share * epochs (rounded to nine places: 0.1 * 30 is 3).
  """
  return [math.ceil(round(share * epochs, 9)) for share in config.drops]


def learning_rate(
  config: OptimizerConfig, epochs: int, steps_per_epoch: int, batch_size: int | None = None
) -> optax.Schedule:
  """The rate of a step, counted from 0 over the whole run.

  `steps`: `drop_factor` multiplies the rate at each of `drops` (shares of the epochs), on whole epochs. The authors'
  Torch code counts epochs from 1 and drops one epoch earlier than its PyTorch successor and this.
  `cosine`: end + (lr - end) / 2 * (1 + cos(pi * t / T)) with t counted from 1: the last step's rate is the end, which
  is `final_rate` or 0.
  The first `warmup_steps` have a tenth of the schedule's rate. `rate_batch` scales every rate by `batch_size` over it.
  In the first `warmup_epochs` the rate rises linearly to the schedule's: from the unscaled rate where that is lower
  (Goyal et al. 2017, section 2.2), else from a tenth. With `warmup_rate` it rises linearly from that, in step 0, to lr,
  after which comes the schedule's rate of that step. So timm's `CosineLRScheduler` does at the beginning of each epoch;
  it keeps the rate within an epoch, and so never comes to its last one.

  Args:
    config: filled in.
    epochs, steps_per_epoch: of the run.
    batch_size: images per step; needed under `rate_batch`.
  """
  schedule = _schedule(config, epochs, steps_per_epoch)
  scale = batch_size / config.rate_batch if config.rate_batch else 1.0
  rising = (config.warmup_epochs or 0.0) * steps_per_epoch
  first = 1 / scale if scale > 1 else 0.1
  if not config.warmup_steps and not rising and scale == 1:
    return schedule

  def scaled(step: Any) -> Any:
    plain = schedule(step)
    if rising and config.warmup_rate is not None:
      begin, end = config.warmup_rate, config.learning_rate
      plain = jnp.where(step < rising, begin + (end - begin) * (step / rising), plain)
    rate = scale * plain * jnp.where(step < (config.warmup_steps or 0), 0.1, 1.0)
    if not rising or config.warmup_rate is not None:
      return rate
    return rate * (first + (1 - first) * jnp.minimum(step / rising, 1.0))

  return scaled


def _schedule(config: OptimizerConfig, epochs: int, steps_per_epoch: int) -> optax.Schedule:
  if config.schedule == "cosine":
    steps, share = epochs * steps_per_epoch, (config.final_rate or 0.0) / config.learning_rate
    cosine = optax.cosine_decay_schedule(config.learning_rate, steps, share)
    return lambda step: cosine(step + 1)
  boundaries: dict[int, float] = collections.defaultdict(lambda: 1.0)
  for epoch in drop_epochs(config, epochs):
    boundaries[epoch * steps_per_epoch] *= config.drop_factor
  return optax.piecewise_constant_schedule(config.learning_rate, dict(boundaries))


def make(
  config: OptimizerConfig, schedule: optax.Schedule, frozen: Sequence[str] = ()
) -> optax.GradientTransformationExtraArgs:
  """Torch's SGD or AdamW, of w with the gradient g.

  SGD adds the decay to the gradient, and has momentum without dampening:
    d = g + weight_decay * w;  b = momentum * b + d;  w -= rate * (d + momentum * b)  (Nesterov)
  AdamW (Loshchilov and Hutter 2019) leaves the gradient as it is; m and v are means of g and g^2, corrected for their
  start at 0:
    m = momentum * m + (1 - momentum) * g;  v = beta2 * v + (1 - beta2) * g^2
    w -= rate * (weight_decay * w + m / (1 - momentum^t) / (sqrt(v / (1 - beta2^t)) + 1e-8))

  Args:
    config: filled in; `decay` says what decays, `classifier_rate` multiplies the classifier's rate, `average` keeps a
      moving average.
    schedule: the rate by step.
    frozen: paths of modules whose parameters stay as they are, `block1` or `block1/layer2`.
  """
  decaying = kernels if config.decay == "kernels" else None
  if config.name == "adamw":
    plain = optax.adamw(
      schedule, config.momentum, config.beta2, eps=1e-8, weight_decay=config.weight_decay, mask=decaying
    )
  else:
    plain = optax.chain(
      optax.add_decayed_weights(config.weight_decay, decaying),
      optax.sgd(schedule, config.momentum or None, nesterov=config.nesterov),
    )
  if frozen or config.classifier_rate != 1:
    apart = {
      "plain": plain,
      "classifier": optax.chain(plain, optax.scale(config.classifier_rate)),
      "frozen": optax.set_to_zero(),
    }
    plain = optax.multi_transform(apart, lambda params: kinds(params, frozen))
  return optax.chain(plain, averaging(config.average)) if config.average else plain


def kernels(params: Any) -> Any:
  """Whether each parameter is a kernel: of two dimensions or more, and no bias. So timm's groups of parameters are.

  A depthwise kernel is one too; scales and biases of norms, and a layer's scale, have one dimension.
  """

  def is_kernel(path: Any, leaf: Any) -> bool:
    return leaf.ndim > 1 and jax.tree_util.keystr(path[-1:], simple=True) != "bias"

  return jax.tree.map_with_path(is_kernel, params)


def kinds(params: Any, frozen: Sequence[str]) -> Any:
  """How the optimizer treats each parameter: `plain`, `classifier` or `frozen`."""

  def kind(path: Any, leaf: Any) -> str:
    del leaf
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if any(f"{name}/".startswith(f"{prefix}/") for prefix in frozen):
      return "frozen"
    return "classifier" if name.startswith("classifier/") else "plain"

  return jax.tree.map_with_path(kind, params)


class Averaged(NamedTuple):
  """The moving average of a run's parameters, in the optimizer's state, after `count` steps."""

  count: jax.Array
  params: Any


def averaging(decay: float) -> optax.GradientTransformation:
  """Keeps a moving average of the updated parameters. It changes no update, and comes last in a chain.

  a = d * a + (1 - d) * w after each step t = 1, 2, ..., with d = min(decay, (1 + t) / (10 + t)), which soon forgets the
  initial parameters.
  """

  def init(params: Any) -> Averaged:
    # Copies: a state is donated, and a buffer only once.
    return Averaged(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

  def update(updates: Any, state: Averaged, params: Any) -> tuple[Any, Averaged]:
    count = state.count + 1
    d = jnp.minimum(decay, (1 + count) / (10 + count))
    average = jax.tree.map(lambda a, w, u: (d * a + (1 - d) * (w + u)).astype(a.dtype), state.params, params, updates)
    return updates, Averaged(count, average)

  return optax.GradientTransformation(init, update)


def tested(params: Any, opt_state: Any) -> Any:
  """The parameters that a run tests: their moving average where there is one."""
  found = [state for state in jax.tree.leaves(opt_state, is_leaf=_is_average) if _is_average(state)]
  return found[0].params if found else params


def _is_average(state: Any) -> bool:
  return isinstance(state, Averaged)
