"""A network from its flags: completed from the zoo or its family's defaults, checked, named.

What differs by family stands in `dn_jax.config.families`.
"""

import dataclasses

from dn_jax.config import check, size, zoo
from dn_jax.config.densenet import RematPolicy
from dn_jax.config.families import FAMILIES, Family
from dn_jax.config.schema import ModelConfig
from dn_jax.errors import ConfigurationError

# The flags of any family.
_FLAGS = tuple(dict.fromkeys(name for family in FAMILIES.values() for name in family.flags))


def complete_model(config: ModelConfig) -> ModelConfig:
  """Fills in unset fields, from the named network or the family's defaults.

  `dropout` (which depends on the data set) and `remat` (on the devices) may stay None. The name is removed where other
  flags have changed the named network.

  Raises:
    ConfigurationError: a value that no network can have.
  """
  named = dict(zoo.published(config.name).model) if config.name else {}
  if config.depth is not None or config.blocks is not None:
    named.pop("depth", None)
    named.pop("blocks", None)
  if config.bottleneck is not None and config.bottleneck != named.get("bottleneck"):
    named.pop("compression", None)
  config = dataclasses.replace(config, **{key: value for key, value in named.items() if getattr(config, key) is None})
  config = dataclasses.replace(config, family=config.family or "densenet")
  _check(config)
  family = FAMILIES[config.family]
  config = dataclasses.replace(config, epsilon=config.epsilon or family.epsilon)
  _refuse_strange_flags(config, family)
  for name, default in {**family.fixed, **family.flags}.items():
    if getattr(config, name) is None and default is not None:
      value = default(config) if callable(default) else default
      config = dataclasses.replace(config, **{name: value})
  config = family.layers(config)
  size.refuse_endless(config)
  return dataclasses.replace(config, name=None) if config.name and _changed(config) else config


def _changed(config: ModelConfig) -> bool:
  """Whether a completed configuration differs from the network it is named after."""
  published = complete_model(ModelConfig(**zoo.published(config.name).model))
  return any(getattr(config, name) != getattr(published, name) for name in ("family", "depth", *_FLAGS))


def _flag(name: str) -> str:
  return f"model.{name.replace('_', '-')}"


def _refuse_strange_flags(config: ModelConfig, family: Family) -> None:
  """Refuses values that are for other families."""
  for name in _FLAGS:
    value = getattr(config, name)
    if value is None or name in family.flags:
      continue
    if name not in family.fixed:
      raise ConfigurationError(_flag(name), value, f"does not apply to a {config.family} network")
    if value != family.fixed[name]:
      owners = " or ".join(key for key, other in FAMILIES.items() if name in other.flags)
      raise ConfigurationError(_flag(name), value, f"is for --model.family {owners}")
  if config.dropout and not family.dropout:
    raise ConfigurationError("model.dropout", config.dropout, f"a {config.family} network has no dropout")
  if config.remat not in (None, "auto", *family.remat):
    owners = " or ".join(other.title for other in FAMILIES.values() if config.remat in other.remat)
    fits = f"is for {owners}; a {config.family} network takes {' or '.join(family.remat)}"
    raise ConfigurationError("model.remat", config.remat, fits)


def _check(config: ModelConfig) -> None:
  """Refuses values beyond their bounds, and a bottleneck's width and policy where there is no bottleneck."""
  check.check(config, "model.")
  if config.bottleneck is False and config.bottleneck_width:
    raise ConfigurationError("model.bottleneck-width", config.bottleneck_width, "this network has no bottleneck")
  if config.bottleneck is not False and config.bottleneck_width == 0:
    raise ConfigurationError("model.bottleneck-width", config.bottleneck_width, "must be at least 1")
  if config.bottleneck is False and config.remat == "bottleneck":
    raise ConfigurationError("model.remat", "bottleneck", "this network has no bottleneck to keep; use dense_layer")


def remat_policies(config: ModelConfig) -> tuple[RematPolicy, ...]:
  """The policies that a completed configuration can take, among which `auto` chooses."""
  return tuple(
    policy for policy in FAMILIES[config.family].remat if policy != "bottleneck" or config.bottleneck is not False
  )


def policy_of(config: ModelConfig) -> str:
  """The remat policy that a completed configuration asks for, or its family's default."""
  return config.remat or FAMILIES[config.family].default_remat


def protocol_of(config: ModelConfig) -> str:
  """The key of a completed configuration's own protocol."""
  whose = FAMILIES[config.family].protocol
  return whose(config) if callable(whose) else whose


def with_weights() -> str:
  """The families whose weights are read from files and written, in words."""
  return " or ".join(family.title for family in FAMILIES.values() if family.weights)


def name_of(config: ModelConfig) -> str:
  """A completed network's name in the zoo, or kind, layers and growth rate."""
  return config.name or FAMILIES[config.family].name(config)


def kind_of(config: ModelConfig) -> str:
  """A completed network's name in the paper's figures, such as DenseNet-BC."""
  return FAMILIES[config.family].kind(config)


def size_of(config: ModelConfig) -> str:
  """A completed DenseNet's size in the paper's symbols, such as L=100, k=12."""
  layers = f"L={config.depth}" if config.depth else f"blocks {'-'.join(map(str, config.blocks))}"
  return f"{layers}, k={config.growth_rate}"


def is_for_imagenet(config: ModelConfig) -> bool:
  """Whether a completed configuration begins with a stem for images of 224x224 pixels."""
  return config.stem == "imagenet" or config.patch_size == 4


def smallest_map(config: ModelConfig, size: int) -> int:
  """Height of a completed configuration's last feature maps, for images of height `size`."""
  return FAMILIES[config.family].smallest_map(config, size)


def check_images(config: ModelConfig, size: int, batch_size: int, groups: int = 1) -> None:
  """Refuses images that a completed configuration cannot train on.

  Args:
    config: completed.
    size: the images' smaller side, in pixels.
    batch_size: images per step.
    groups: groups of a batch that are normalised separately.

  Raises:
    ConfigurationError: images shrink to nothing, or batch norm would see a single value.
  """
  smallest = smallest_map(config, size)
  if smallest < 1:
    smaller = "a smaller --model.patch-size" if config.patch_size else "--model.stem cifar"
    fits = f"images of {size}x{size} pixels shrink to nothing; take fewer blocks or {smaller}"
    raise ConfigurationError("model.blocks", config.blocks, fits)
  if FAMILIES[config.family].batch_norm and batch_size // groups * smallest**2 == 1:
    fits = "the last block would normalise over a single pixel; at least "
    raise ConfigurationError("batch-size", batch_size, fits + (f"2 for each of {groups} groups" if groups > 1 else "2"))
