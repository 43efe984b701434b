"""Several runs in one program are each the run alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative

from dn_jax.config.schema import OptimizerConfig
from dn_jax.data.augment import mirror_and_shift, normalise
from dn_jax.distributed.layout import make_layout_of_one
from dn_jax.models.densenet import DenseNet
from dn_jax.training import optimizer, resident, step

SGD = OptimizerConfig(0.1, 0.9, True, 1e-4, "steps", (), 0.1, average=0.99)
SHAPE = (8, 8, 3)


@pytest.mark.thorough
@pytest.mark.parametrize("policy", ["dense_layer", "layer_by_layer"])
def test_steps_side_by_side_are_those_alone_in_float64(policy):
  with jax.enable_x64(True):
    rng = np.random.RandomState(0)
    split = resident.DeviceSplit(
      jnp.asarray(rng.randint(0, 256, (24, *SHAPE)), jnp.uint8), jnp.asarray(rng.randint(0, 5, 24))
    )
    network = DenseNet((1, 2), 4, 5, 8, dropout_rate=0.2, remat=policy, dtype=jnp.float64, param_dtype=jnp.float64)
    sgd = optimizer.sgd(SGD, optimizer.learning_rate(SGD, 1, 1))
    plain = lambda images: normalise(images, (127.5,), (63.75,), jnp.float64)
    prepare = lambda images, key, numbers: mirror_and_shift(plain(images), key, numbers, mirror=True, pad=2)
    layout = make_layout_of_one()
    train_step = step.make_train_step(network, sgd, layout)
    seeds = range(3)
    keys = [resident.Keys(*jax.random.split(jax.random.key(100 + seed))) for seed in seeds]
    orders = [jnp.asarray(np.random.RandomState(seed).permutation(24), jnp.int32) for seed in seeds]
    fresh = lambda seed: (step.create_state(network, sgd, jax.random.key(seed), SHAPE), step.Totals.zero())

    def go(advance, state, totals, order):
      losses = []
      for number in range(5):
        state, totals, found = advance(state, totals, split, order, jnp.int32(4 * number), jnp.int32(1), batch_size=4)
        losses.append(np.asarray(found)[..., 0])
      return state, totals, np.stack(losses, axis=-1)

    alone = [
      go(resident.make_advance(train_step, prepare, layout, *keys[seed], 1), *fresh(seed), orders[seed])
      for seed in seeds
    ]
    together = resident.make_advance_side_by_side(train_step, prepare, layout, keys, 1)
    states, totals, losses = go(together, *zip(*map(fresh, seeds), strict=True), tuple(orders))
  assert not np.allclose(losses[0], losses[1], rtol=1e-3)
  for seed in seeds:
    state, sums, alone_losses = alone[seed]
    for found, expected in ((states[seed], state), (totals[seed], sums)):
      for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert relative(a, b) < 1e-10
    np.testing.assert_allclose(losses[seed], alone_losses, rtol=1e-6)  # Kept in float32.
