"""A run as frozen data: what it is, and how it is carried out.

A plain field is part of what the run *is*: another value is another run, and another cell of a table. A field made
with `carried_out` says how the run is computed or where it goes, and may differ when it is resumed. `None` means "as
published" and is filled in before anything runs (`dn_jax.config.resolve`).
"""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen, doc

from dn_jax.config.check import STRICT, Path, prefix_within, to_dict
from dn_jax.config.densenet import RematPolicy

ProtocolName = Literal["densenet", "caffe", "resnet", "stochastic-depth", "preactivation", "wide"]
RematChoice = Literal[RematPolicy, "auto"]

# Whole numbers go to the devices as int32.
Count = Annotated[int, Ge(1), Lt(2**31)]
Whole = Annotated[int, Ge(0), Lt(2**31)]
# Of layers, channels, pixels, processes; the bound is far above any real one.
Size = Annotated[int, Ge(1), Le(10_000)]
Share = Annotated[float, Gt(0), Le(1)]
Rate = Annotated[float, Ge(0), Lt(1)]
# Fractions go to the devices as float32, of which these bounds are well within the range.
Positive = Annotated[float, Gt(0), Le(1e30)]
NotNegative = Annotated[float, Ge(0), Le(1e30)]
Epsilon = Annotated[float, Ge(1e-12), Lt(1)]
# Of a value in an image file of 16.
BitDepth = Annotated[int, Ge(9), Le(16)]
# Of an image: grey, or red, green and blue.
Channels = Literal[1, 3]


def carried_out(default: Any) -> Any:
  """A field that says how a run is carried out, not what it is."""
  return dataclasses.field(default=default, metadata={"carried_out": True})


def added(default: Any, *, carried_out: bool = False) -> Any:
  """A field that earlier versions had not. Where it has its default, neither records nor a run's key name it."""
  return dataclasses.field(default=default, metadata={"added": True, "carried_out": carried_out})


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """The images."""

  __pydantic_config__ = STRICT

  name: str = "cifar10"
  """digits, cifar10, cifar100 or svhn_cropped; streamed: folder (CLASS/PICTURE, or these within train, val, test),
  imagenet2012, or any other with one label per picture that TFDS prepared."""
  dir: Path | None = carried_out(None)
  """Folder of TFDS-prepared data sets or of makers' archives, or gs://BUCKET/FOLDER; by default TFDS's own
  (~/tensorflow_datasets). With `folder`: that folder."""
  augment: bool = False
  """The "+" of the paper's tables: mirror, pad and crop. Streamed: ImageNet's, a crop of random area and aspect,
  mirrored, with changed colours and lighting."""
  padding: Literal["zero", "reflect"] | None = None
  """Pad shifted images with zeros after normalising, or with their reflection."""
  normalise: Literal["channel", "pixel", "mean"] | None = None
  """By the data set's published constants; by a mean image and one standard deviation; by a mean image alone."""
  validation: Whole | None = None
  """Images held out of the training set, of each class its share (published: 0; SVHN 6000)."""
  test_split: str | None = added(None)
  """Of a streamed data set of TFDS, the split that is tested on: by default test, or validation where there is none."""
  size: Size | None = None
  """Side of a streamed image after cropping (ImageNet: 224)."""
  resize: Size | None = None
  """Its shorter side before the central crop, where it is not augmented (ImageNet: 256, or as 8 to 7)."""
  workers: Annotated[int, Ge(0), Le(1024)] = carried_out(0)
  """Processes that read and decode them; 0: threads of this one, one per processor, at most 16."""
  bad_share: Rate = carried_out(0.01)
  """Share of them that may be unreadable, each replaced by another; more stop the run."""
  max_pixels: Count = added(100_000_000, carried_out=True)
  """Pixels of an image file, above which it counts as unreadable."""
  bit_depth: BitDepth | None = added(None)
  """Bits that the values of 16-bit files use (published: 16), such as 12 of a camera's."""

  class_weights: Literal["balanced"] | None = added(None)
  """Multiply an image's loss by n / (classes * n_c) of n training images, n_c of its class. Errors have no weights."""
  channels: Channels | None = added(None)
  """1: turn images to grey, for a network with one input channel. By default as the data set has them, or 3."""


@dataclasses.dataclass(frozen=True)
class ClassImages:
  """A class's name and its images in each part of a streamed data set; None where labels are read with the images."""

  __pydantic_config__ = STRICT

  name: str
  train: Whole | None
  validation: Whole | None
  test: Whole | None


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The network. Unset flags come from --model.name, or are those of DenseNet-BC (L=100, k=12)."""

  __pydantic_config__ = STRICT

  name: str | None = carried_out(None)
  """A network of the zoo, e.g. densenet-bc-100-12; the flags below change parts of it."""
  depth: Size | None = None
  """L: 4 + 3n, or 4 + 6n with bottlenecks."""
  growth_rate: Annotated[int, Ge(1), Le(5_000)] | None = None
  """k: channels that each layer adds."""
  blocks: Annotated[tuple[Size, ...], MinLen(1), doc("one or more blocks of at least 1 layer")] | None = None
  """Layers of each dense block, instead of --model.depth."""
  bottleneck: bool | None = None
  """A 1x1 convolution in every layer (-B)."""
  bottleneck_width: Annotated[int, Ge(0), Le(10_000)] | None = None
  """Its outputs, in units of k."""
  compression: Share | None = None
  """theta: share of the channels that a transition keeps (-C)."""
  initial_channels: Size | None = None
  """Outputs of the first convolution (2k with bottlenecks, else 16)."""
  stem: Literal["cifar", "imagenet"] | None = None
  """3x3, or 7x7 of stride 2 with a max pool."""
  dropout: Rate | None = None
  """After every convolution but the first (published: 0.2 where nothing is augmented)."""
  convolution_init: Literal["fan_out", "fan_in"] | None = None
  """He initialisation by outputs (Torch) or inputs (Caffe)."""
  classifier_init: Literal["torch", "xavier"] | None = None
  """Torch's default for a linear layer, or Caffe's "xavier"."""
  family: Literal["densenet", "resnet", "preactivation", "wide"] | None = None
  """DenseNet, or a baseline: ResNet, with pre-activation, Wide ResNet."""
  widen_factor: Size | None = None
  """Of a Wide ResNet's channels."""
  survival: Share | None = None
  """p_L of a ResNet with stochastic depth; 1: without."""
  shortcut: Literal["subsample", "average"] | None = None
  """Where a ResNet's size changes: every other pixel, or the average of four (with stochastic depth)."""
  epsilon: Epsilon | None = None
  """Added to batch norm's variance (published: 1e-5; of a file of weights that says it, the file's)."""
  dtype: Literal["float32", "bfloat16"] = "float32"
  """Of activations; parameters and statistics stay float32."""
  precision: Literal["default", "high", "highest"] = "default"
  """Of matrix products: on TPU and GPU "default" multiplies float32 in bfloat16 or TF32 passes."""
  remat: RematChoice | None = carried_out(None)
  """Which activations the backward pass keeps and which it recomputes; results are the same. auto: the fastest that
  fits by the compiler's estimate, or the least recomputation where it has none. Unset, the fastest that fits as far
  as is known: on a CPU layer_by_layer (a ResNet: dense_layer); if memory allows, on a GPU none, on a TPU bottleneck.
  """


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """SGD with momentum. Unset flags are as published for the network and the data set."""

  __pydantic_config__ = STRICT

  learning_rate: Positive | None = None
  """At the start."""
  momentum: Rate | None = None
  """Of SGD, without dampening."""
  nesterov: bool | None = None
  """Nesterov's form of the momentum."""
  weight_decay: NotNegative | None = None
  """On every parameter, batch-norm scales and biases included."""
  schedule: Literal["steps", "cosine"] | None = None
  """Drops, or a cosine to 0 over all steps."""
  drops: Annotated[tuple[Share, ...], doc("shares of the epochs, {}")] | None = None
  """Where the rate drops, as shares of the epochs."""
  drop_factor: Share | None = None
  """The rate's factor there."""
  warmup_steps: Whole | None = None
  """Steps at the start with a tenth of the rate."""
  rate_batch: Count | None = None
  """Scale the rate by --batch-size over this batch size (Goyal et al. 2017). Unset: no scaling."""
  warmup_epochs: Annotated[float, Ge(0), doc("at least 0, within the run")] = 0.0
  """Epochs in which the rate rises linearly: from its unscaled value, else from a tenth."""
  label_smoothing: Rate = 0.0
  """Share of a label that training's loss spreads over all classes (the log has the plain cross-entropy)."""
  average: Rate = 0.0
  """Decay of a moving average of the parameters over steps, which is then tested and kept. E.g. 0.9999."""
  classifier_rate: Positive = 1.0
  """The classifier's own rate, in units of all others'."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When checkpoints are written and kept."""

  __pydantic_config__ = STRICT

  every_epochs: Count = carried_out(1)
  """Epochs between checkpoints (the last is always written)."""
  every_steps: Count | None = carried_out(None)
  """Steps between checkpoints within an epoch (between two commands to the device); by default none."""
  every_minutes: Positive | None = carried_out(None)
  """Likewise, minutes; several processes look at the clock about every 10 s."""
  any_version: bool = carried_out(False)
  """Resume from a checkpoint that another JAX wrote; the last digits may differ from an undisturbed run's."""
  keep: Annotated[int, Ge(2), Lt(2**31), doc("{} (the newest may be cut short while it is written)")] = carried_out(2)
  """How many of the newest to keep, beside the best on validation."""


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
  """Several processes, usually one per host, as one run: each is started with the same flags and its own id."""

  __pydantic_config__ = STRICT

  coordinator: str | None = carried_out(None)
  """HOST:PORT of process 0, which all others can reach."""
  num_processes: Size | None = carried_out(None)
  """How many there are."""
  process_id: Whole | None = carried_out(None)
  """Which one this is, from 0."""
  auto: bool = carried_out(False)
  """Have JAX find the others, on a TPU pod slice. Under SLURM and Open MPI it does so without this flag."""
  timeout: Count = carried_out(300)
  """Seconds to wait for the others at the start."""
  heartbeat: Count = carried_out(30)
  """Seconds without a sign of life after which a process counts as lost and all others stop."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """One training run."""

  __pydantic_config__ = STRICT

  data: DataConfig = DataConfig()
  model: ModelConfig = ModelConfig()
  optimizer: OptimizerConfig = OptimizerConfig()
  checkpoint: CheckpointConfig = CheckpointConfig()
  distributed: DistributedConfig = DistributedConfig()
  protocol: ProtocolName | None = carried_out(None)
  """Published training that fills in unset flags; by default the named network's own."""
  epochs: Count | None = None
  """Passes over the training images."""
  batch_size: Count | None = None
  """Images per step, over all devices."""
  seed: Annotated[int, Ge(0), Lt(2**32)] = 0
  """Of weights, order, augmentation and dropout."""
  weights: Path | None = None
  """Start from a file of weights (.safetensors, .pth, .keras, ...), which may describe its network, or from one of the
  Hugging Face hub, hf://OWNER/NAME[@REVISION][/FILE]."""
  weights_digest: str | None = added(None)
  """Its SHA-256 digest: another file is refused. Of the hub's files it is found, and recorded."""
  weights_revision: str | None = added(None, carried_out=True)
  """The hub's branch or tag that --weights named; a run that goes on keeps the commit that this was at its start."""
  reset_classifier: bool = False
  """With --weights: a fresh classifier, for other classes."""
  freeze: tuple[str, ...] = ()
  """Parts that keep their weights: stem, block1, transition1, ..., last, classifier; layers as block1/layer2."""
  freeze_statistics: bool = False
  """Train with batch norm's running averages, unchanged, and without dropout."""
  statistics_groups: Count = 1
  """Equal parts of a batch that batch norm normalises separately, as on so many GPUs; 1: the whole batch."""
  last_batch: Literal["drop", "keep"] = "drop"
  """Drop or keep an epoch's smaller last batch (the authors keep it; a device mesh needs one size)."""
  report: Literal["last", "best"] | None = None
  """Report the test error of the last network, or of the best on validation."""
  out: Path | None = carried_out(None)
  """The run's folder; by default runs/ and a name from the flags."""
  devices: Size | None = carried_out(None)
  """How many of this machine's devices share the batch; by default all."""
  parallel: Literal["jit", "pmap"] = carried_out("jit")
  """Run the step on every device by jax.jit with jax.shard_map, or by jax.pmap."""
  shard_state: bool = carried_out(False)
  """Shard parameters and momentum over the devices, for large networks; each step gathers the parameters."""
  accumulation: Count = carried_out(1)
  """Pieces of a batch that a device processes one after another, if the batch does not fit; each has whole groups."""
  steps_per_dispatch: Count | None = carried_out(None)
  """Steps of the device per command of the host (default: 1 on CPU, 32 elsewhere)."""
  evaluation_batch_size: Count = carried_out(256)
  """Images per step of evaluation."""
  tensorboard: bool = carried_out(False)
  """Write TensorBoard events too (extra `tensorboard`)."""
  profile: bool = carried_out(False)
  """Record a few commands to the device in RUN/profile, for TensorBoard or ui.perfetto.dev."""
  debug_nans: bool = carried_out(False)
  """Stop at the first operation that yields a NaN, with its traceback; slow."""


# For each channel, or for each value of a mean image [height, width, channels]; pixel values are 0 to 255.
_Mean = Annotated[float, Ge(-1e6), Le(1e6)]
_Deviation = Annotated[float, Ge(1e-6), Le(1e6)]
_EACH = "for each channel, or for each pixel and channel"
PixelMeans = Annotated[tuple[_Mean, ...] | tuple[tuple[tuple[_Mean, ...], ...], ...], doc(f"a number {_EACH}")]
PixelDeviations = Annotated[
  tuple[_Deviation, ...] | tuple[tuple[tuple[_Deviation, ...], ...], ...], doc(f"a number of at least 1e-6 {_EACH}")
]


@dataclasses.dataclass(frozen=True)
class AboutInput:
  """A weights file's description of its input, see `dn_jax.inference.load.Input`."""

  __pydantic_config__ = STRICT

  size: Size | None = None
  resize: Size | None = None
  mean: PixelMeans | None = None
  std: PixelDeviations | None = None
  bit_depth: BitDepth | None = None
  channels: Channels | None = None


@dataclasses.dataclass(frozen=True)
class About:
  """A weights file's description of itself, in its metadata."""

  __pydantic_config__ = STRICT

  model: ModelConfig | None = None
  classes: tuple[str, ...] | None = None
  input: AboutInput = AboutInput()


# Fields of `RunConfig` that records of earlier versions have: the only value that this version takes, and why.
RETIRED = {"seeds_per_device": (1, "this version has no several seeds in one program")}


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, bool]]:
  """Every field of a nested configuration: (flag such as `model.growth-rate`, value, whether it is part of the run)."""
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    flag = prefix + field.name.replace("_", "-")
    if dataclasses.is_dataclass(value):
      yield from fields(value, flag + ".")
    else:
      carried_out = field.metadata.get("carried_out", False)
      yield flag, value, not carried_out and not is_unsaid(field, value)


def is_unsaid(field: dataclasses.Field, value: Any) -> bool:
  """Whether a field was `added` and has its default."""
  return field.metadata.get("added", False) and value == field.default


def flag_types(command: Any) -> dict[str, Any]:
  """The flags of a nested configuration, or of a function that is a command, and their types."""

  def of(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    annotated = typing.get_type_hints(kind, include_extras=True)
    for name, hint in typing.get_type_hints(kind).items():
      flag = prefix + name.replace("_", "-")
      if dataclasses.is_dataclass(hint):
        yield from of(hint, prefix_within(flag, annotated[name]))
      elif name != "return":
        yield flag, hint

  return dict(of(command))


def identity(config: RunConfig) -> dict[str, Any]:
  """The flags that say what a resolved run is, and their values in JSON's types."""
  values = flags(config)
  return {flag: values[flag] for flag, _, part_of_the_run in fields(config) if part_of_the_run}


def flags(config: Any) -> dict[str, Any]:
  """The flags of a nested configuration, and their values in JSON's types."""

  def flat(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
      flag = prefix + name.replace("_", "-")
      yield from flat(value, flag + ".") if isinstance(value, dict) else [(flag, value)]

  return dict(flat(to_dict(config)))


def difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  """A line for each flag whose value differs, `flag: old -> new`."""
  absent = "(absent)"
  return [
    f"--{flag}: {old.get(flag, absent)} -> {new.get(flag, absent)}"
    for flag in dict.fromkeys((*old, *new))
    if old.get(flag, absent) != new.get(flag, absent)
  ]
