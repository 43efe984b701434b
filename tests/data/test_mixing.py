"""Mixup and CutMix against timm's, draw by draw, and their draws by counting."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FIXTURES
from scipy import stats

from dn_jax.data import mixing
from dn_jax.training.step import Batch


@functools.cache
def recorded():
  with np.load(FIXTURES / "augmentation" / "timm.npz") as file:
    return {name.removeprefix("mix/"): value for name, value in file.items() if name.startswith("mix/")}


def test_images_and_targets_are_mixed_as_by_timm():
  of = recorded()
  images, labels = jnp.asarray(of["images"]), jnp.asarray(of["labels"])
  logits = jnp.asarray(np.random.RandomState(3).randn(6, 5), jnp.float32)
  logs = jax.nn.log_softmax(logits)
  kinds = set()
  for share, cut, centre, result, target in zip(
    *(of[name] for name in ("share", "cut", "centre", "result", "target")), strict=True
  ):
    drawn = mixing.Mix(jnp.float32(share), jnp.bool_(cut), jnp.asarray(centre))
    pixels, own = mixing.own_shares(drawn, images.shape[1:3])
    # One rounding of float32 of numbers of about 3.
    np.testing.assert_allclose(mixing.mixed(images, images[::-1], pixels), result, atol=0 if cut else 5e-7)
    batch = Batch(images, labels, jnp.ones(6), labels[::-1], jnp.full(6, own))
    smoothed = lambda labels: -(0.9 * logs[jnp.arange(6), labels] + 0.1 * logs.mean(axis=1))
    expected = -(target * np.asarray(logs)).sum(axis=1)
    np.testing.assert_allclose(batch.loss(smoothed), expected, rtol=1e-5)
    kinds.add((bool(cut), bool(own == share)))
  assert kinds == {(False, True), (True, False)}


@pytest.mark.slow
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_shares_are_of_a_beta_distribution_and_centres_of_all_pixels(mixup, cutmix):
  size, count = (6, 9), 4000
  draw = jax.jit(jax.vmap(lambda key: mixing.draw(key, size, mixup, cutmix)))
  drawn = jax.tree.map(np.asarray, draw(jax.random.split(jax.random.key(0), count)))
  both = mixup > 0 and cutmix > 0
  assert drawn.cut.mean() == pytest.approx(0.5, abs=0.03) if both else drawn.cut.mean() == (cutmix > 0)
  assert drawn.share.dtype == np.float32
  for cut, alpha in ((False, mixup), (True, cutmix)):
    shares = drawn.share[drawn.cut == cut]
    if len(shares):  # A fair draw is below this once in a thousand seeds.
      assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
  counts = np.bincount(drawn.centre[:, 0] * 9 + drawn.centre[:, 1], minlength=54)
  assert len(counts) == 54
  # Chi-squared with 53 degrees of freedom: above 90.6 once in a thousand seeds.
  assert np.sum((counts - count / 54) ** 2 / (count / 54)) < 90.6


@pytest.mark.parametrize("alpha", [0.001, 1000.0])
def test_extreme_alphas_give_shares_all_the_same(alpha):
  keys = jax.random.split(jax.random.key(0), 500)
  shares = np.asarray(jax.vmap(lambda key: mixing.draw(key, (4, 4), alpha, 0.0).share)(keys))
  assert np.isfinite(shares).all()
  assert (shares >= 0).all()
  assert (shares <= 1).all()
  assert 0.4 < shares.mean() < 0.6


def test_a_share_of_one_changes_nothing():
  images = jnp.asarray(recorded()["images"])
  for cut in (False, True):
    pixels, own = mixing.own_shares(mixing.Mix(jnp.float32(1), jnp.bool_(cut), jnp.zeros(2, jnp.int32)), (9, 7))
    assert float(own) == 1
    np.testing.assert_array_equal(mixing.mixed(images, images[::-1], pixels), images)
