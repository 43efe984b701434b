"""A run as frozen data: what it is, and how it is carried out.

A plain field is part of what the run *is*: another value is another run, and another cell of a table. A field made
with `carried_out` says how the run is computed or where it goes, and may differ when it is resumed. `None` means "as
published" and is filled in before anything runs (`dn_jax.config.resolve`).
"""

import dataclasses
import json
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen, doc

from dn_jax.config.check import STRICT, Misfit, Path
from dn_jax.config.densenet import RematPolicy

ProtocolName = Literal["densenet", "caffe", "resnet", "stochastic-depth", "preactivation", "wide", "rdnet", "mixup"]
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
# Of Beta(alpha, alpha), or 0; below 0.001 all draws are 0 or 1.
Alpha = Annotated[float, Ge(0), Le(1000)]
Chance = Annotated[float, Ge(0), Le(1)]
# Of a value in an image file of 16.
BitDepth = Annotated[int, Ge(9), Le(16)]
# Of an image: grey, or red, green and blue.
Channels = Literal[1, 3]
Interpolation = Literal["bilinear", "bicubic"]


@dataclasses.dataclass(frozen=True)
class Unset:
  """An annotation: the meaning of a flag that nobody sets and nothing fills in, in words."""

  words: str


# Of files that a command writes if told to.
NOT_WRITTEN = Unset("not written")
# Of augmentations that a protocol may have.
NOT_ALTERED = Unset("none, unless the protocol has it")


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
  """Train on digits, cifar10, cifar100 or svhn_cropped; or, read one by one, on folder (CLASS/IMAGE, or these within
  train, val, test), imagenet2012, or any other with one label per image that TFDS prepared."""
  dir: Annotated[Path | None, Unset("TFDS's own, ~/tensorflow_datasets")] = carried_out(None)
  """Read TFDS-prepared data sets or makers' archives from this folder, or from gs://BUCKET/FOLDER. With `folder` it is
  that folder."""
  augment: bool = False
  """Augment training images, the "+" of the paper's tables: mirror, pad and crop. Images that are read one by one get
  ImageNet's: a crop of random area and aspect, mirrored, with changed colours and lighting."""
  padding: Literal["zero", "reflect"] | None = None
  """Pad shifted images with zeros after normalising, or with their reflection."""
  normalise: Literal["channel", "pixel", "mean"] | None = None
  """Normalise by the data set's published constants; by a mean image and one standard deviation; or by a mean image
  alone."""
  validation: Whole | None = None
  """Hold this number of images out of the training set, of each class its share."""
  test_split: Annotated[str | None, Unset("test, or validation where there is none")] = added(None)
  """Test on this split of a TFDS data set whose images are read one by one."""
  size: Annotated[Size | None, Unset("the data set's own")] = None
  """Crop images that are read one by one to squares of this side, in pixels (ImageNet: 224)."""
  resize: Annotated[Size | None, Unset("none; the images have one size")] = None
  """Resize the shorter side of such an image to this before its central crop, in pixels (ImageNet: 256, or as 8 to
  7)."""
  workers: Annotated[int, Ge(0), Le(1024)] = carried_out(0)
  """Read and decode images by this number of processes; 0: by threads of this one, one per processor, at most 16."""
  bad_share: Rate = carried_out(0.01)
  """Replace unreadable images by others up to this share of all, 0 to 1; more stop the run."""
  max_pixels: Count = added(100_000_000, carried_out=True)
  """Count an image file of more pixels than these as unreadable."""
  bit_depth: Annotated[BitDepth | None, Unset("16")] = added(None)
  """Say how many bits the values of 16-bit image files use, such as 12 of a camera's."""
  class_weights: Annotated[Literal["balanced"] | None, Unset("each image counts the same")] = added(None)
  """Multiply an image's loss by n / (classes * n_c) of n training images, n_c of its class. Errors have no weights."""
  channels: Annotated[Channels | None, Unset("as the data set has them, or 3")] = added(None)
  """Turn images to grey by 1, for a network with one input channel."""
  mixup: Annotated[Alpha | None, NOT_ALTERED] = added(None)
  """Mix each training image, and its loss, with another of the batch by a share of Beta(alpha, alpha); 0: none."""
  cutmix: Annotated[Alpha | None, NOT_ALTERED] = added(None)
  """Paste a box of another image of the batch into each, of a share of Beta(alpha, alpha), and mix their losses; 0:
  none. With --data.mixup each step takes one or the other."""
  erasing: Annotated[Chance | None, NOT_ALTERED] = added(None)
  """Fill a box of 2 to 33 % of an image with noise, by this chance, 0 to 1."""
  cutout: Annotated[Annotated[int, Ge(0), Le(10_000)] | None, NOT_ALTERED] = added(None)
  """Set a square of this side at a random place of each image to the mean colour, in pixels; 0: none."""
  rand_augment: Annotated[Annotated[float, Ge(0), Le(10)] | None, NOT_ALTERED] = added(None)
  """Change each image by up to two random operations of this magnitude, 0 to 10 (RandAugment); 0: none. Images that
  are read one by one then keep their colours and lighting under --data.augment."""
  rand_augment_deviation: Annotated[Annotated[float, Ge(0), Le(10)] | None, NOT_ALTERED] = added(None)
  """Draw each magnitude of --data.rand-augment from a normal distribution with this deviation."""
  interpolation: Annotated[Interpolation | None, Unset("bilinear, unless the protocol says otherwise")] = added(None)
  """Resize images that are read one by one by this filter; bilinear averages training crops that it shrinks."""


@dataclasses.dataclass(frozen=True)
class ClassImages:
  """A class's name and its images in each part of a streamed data set; None where labels are read with the images."""

  __pydantic_config__ = STRICT

  name: str
  train: Whole | None
  validation: Whole | None
  test: Whole | None


AS_NETWORK = Unset("as the network has it")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The network. Unset flags come from --model.name, or are those of DenseNet-BC (L=100, k=12)."""

  __pydantic_config__ = STRICT

  name: Annotated[str | None, Unset("DenseNet-BC (L=100, k=12), as far as no flag changes it")] = carried_out(None)
  """Take a network of the zoo, such as densenet-bc-100-12; the flags below change parts of it."""
  depth: Annotated[Size | None, Unset("as --model.blocks says")] = None
  """Set L, the number of layers: 4 + 3n, or 4 + 6n with bottlenecks."""
  growth_rate: Annotated[Annotated[int, Ge(1), Le(5_000)] | None, AS_NETWORK] = None
  """Set k, the number of channels that each layer adds."""
  blocks: Annotated[
    Annotated[tuple[Size, ...], MinLen(1), doc("one or more blocks of at least 1 layer")] | None, AS_NETWORK
  ] = None
  """Set the layers of each dense block, instead of --model.depth."""
  bottleneck: Annotated[bool | None, AS_NETWORK] = None
  """Put a 1x1 convolution into every layer (-B)."""
  bottleneck_width: Annotated[Annotated[int, Ge(0), Le(10_000)] | None, AS_NETWORK] = None
  """Set the channels of the bottlenecks, in units of k."""
  compression: Annotated[Share | None, AS_NETWORK] = None
  """Set theta, the share of the channels that a transition keeps, 0 to 1 (-C)."""
  initial_channels: Annotated[Size | None, AS_NETWORK] = None
  """Set the output channels of the first convolution (2k with bottlenecks, else 16)."""
  stem: Annotated[Literal["cifar", "imagenet"] | None, AS_NETWORK] = None
  """Begin with a 3x3 convolution, or with one of 7x7 and stride 2 and a max pool."""
  dropout: Annotated[Rate | None, Unset("as published for training")] = None
  """Drop this share of the channels, 0 to 1, after every convolution but the first."""
  convolution_init: Annotated[Literal["fan_out", "fan_in"] | None, AS_NETWORK] = None
  """Draw convolutions by He's rule, by outputs (Torch) or by inputs (Caffe)."""
  classifier_init: Annotated[Literal["torch", "xavier"] | None, AS_NETWORK] = None
  """Draw the classifier by Torch's default for a linear layer, or by Caffe's "xavier"."""
  family: Annotated[Literal["densenet", "rdnet", "resnet", "preactivation", "wide"] | None, AS_NETWORK] = None
  """Build a DenseNet, an RDNet, or a baseline: ResNet, ResNet with pre-activation, Wide ResNet."""
  widen_factor: Annotated[Size | None, Unset("for a Wide ResNet alone")] = None
  """Multiply a Wide ResNet's channels by this."""
  survival: Annotated[Share | None, AS_NETWORK] = None
  """Set p_L of stochastic depth, the chance of the last layer or residual unit to be kept, 0 to 1; 1: without."""
  shortcut: Annotated[Literal["subsample", "average"] | None, Unset("for a ResNet alone")] = None
  """Take every other pixel where a ResNet's size changes, or the average of four (with stochastic depth)."""
  growth_rates: Annotated[
    Annotated[tuple[Annotated[int, Ge(1), Le(5_000)], ...], MinLen(1), doc("one or more numbers of at least 1")] | None,
    Unset("for an RDNet alone"),
  ] = added(None)
  """Set the channels that a layer of an RDNet adds, one number for each of --model.blocks."""
  downsample: Annotated[tuple[Size, ...] | None, Unset("for an RDNet alone")] = added(None)
  """Halve an RDNet's maps after these blocks, counted from 1."""
  patch_size: Annotated[Annotated[int, Ge(1), Le(64)] | None, Unset("for an RDNet alone")] = added(None)
  """Cut images into patches of this side for an RDNet, in pixels: 4, or 1 or 2 for small images."""
  epsilon: Annotated[Epsilon | None, AS_NETWORK] = None
  """Add this to the variance in batch norm, or in an RDNet's layer norm."""
  dtype: Literal["float32", "bfloat16"] = "float32"
  """Compute activations in this type; parameters and statistics stay float32."""
  precision: Literal["default", "high", "highest"] = "default"
  """Multiply float32 matrices so exactly; on TPU and GPU "default" does it in bfloat16 or TF32 passes."""
  remat: Annotated[
    RematChoice | None,
    Unset("the device decides: on a CPU layer_by_layer (a ResNet: dense_layer), else the fastest that fits"),
  ] = carried_out(None)
  """Choose which activations the backward pass keeps and which it recomputes; results are the same. auto: the fastest
  that fits by the compiler's estimate, or the least recomputation where it has none. Unset, the fastest that fits as
  far as is known: if memory allows, on a GPU none, on a TPU bottleneck."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """SGD with momentum, or AdamW. Unset flags are as published for the network and the data set."""

  __pydantic_config__ = STRICT

  learning_rate: Positive | None = None
  """Start with this learning rate, after a warm-up if there is one."""
  momentum: Rate | None = None
  """Set the momentum of SGD, 0 to 1, without dampening; of AdamW it is beta1."""
  nesterov: bool | None = None
  """Take Nesterov's form of SGD's momentum."""
  weight_decay: NotNegative | None = None
  """Add this times a parameter to its gradient; AdamW takes it, times the rate, off the parameter itself."""
  schedule: Literal["steps", "cosine"] | None = None
  """Lower the rate by drops, or along a cosine to 0 or --optimizer.final-rate over all steps."""
  drops: Annotated[tuple[Share, ...], doc("shares of the epochs, {}")] | None = None
  """Drop the rate after these shares of the epochs, each 0 to 1."""
  drop_factor: Share | None = None
  """Multiply the rate by this at each drop."""
  warmup_steps: Whole | None = None
  """Take this number of steps at the start with a tenth of the rate."""
  rate_batch: Annotated[Count | None, Unset("no scaling")] = None
  """Scale every rate by --batch-size over this number of images (Goyal et al. 2017)."""
  warmup_epochs: Annotated[float, Ge(0), doc("at least 0, within the run")] | None = None
  """Raise the rate linearly over this number of epochs: from --optimizer.warmup-rate, else from its unscaled value,
  else from a tenth."""
  label_smoothing: Rate | None = None
  """Spread this share of a label, 0 to 1, over all classes in training's loss; the log has the plain cross-entropy."""
  average: Rate = 0.0
  """Test and keep a moving average of the parameters over steps, with this decay, such as 0.9999; 0: none."""
  classifier_rate: Positive = 1.0
  """Train the classifier with this times the rate of all others."""
  name: Annotated[Literal["sgd", "adamw"] | None, Unset("sgd, unless the protocol says otherwise")] = added(None)
  """Train by SGD with momentum, or by AdamW (epsilon 1e-8), which needs a rate and a weight decay of its own."""
  beta2: Annotated[Rate | None, Unset("for AdamW alone, 0.999")] = added(None)
  """Set AdamW's decay of the mean squared gradient, 0 to 1."""
  decay: Annotated[Literal["all", "kernels"] | None, Unset("all, unless the protocol says otherwise")] = added(None)
  """Apply weight decay to all parameters, or to kernels alone: neither to biases nor to a norm's scales."""
  final_rate: Annotated[NotNegative | None, Unset("0, unless the protocol says otherwise")] = added(None)
  """End a cosine at this rate, in the last step."""
  warmup_rate: Annotated[NotNegative | None, Unset("as --optimizer.warmup-epochs says")] = added(None)
  """Raise the rate from this one to --optimizer.learning-rate in --optimizer.warmup-epochs; the schedule then goes on
  as if it had begun with the run."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """When checkpoints are written and kept."""

  __pydantic_config__ = STRICT

  every_epochs: Count = carried_out(1)
  """Write a checkpoint every so many epochs; the last is always written."""
  every_steps: Annotated[Count | None, Unset("none within an epoch")] = carried_out(None)
  """Write one every so many steps within an epoch, between two commands to the device."""
  every_minutes: Annotated[Positive | None, Unset("none within an epoch")] = carried_out(None)
  """Write one every so many minutes; several processes look at the clock about every 10 s."""
  any_version: bool = carried_out(False)
  """Resume from a checkpoint that another JAX wrote; the last digits may differ from an undisturbed run's."""
  keep: Annotated[int, Ge(2), Lt(2**31), doc("{} (the newest may be cut short while it is written)")] = carried_out(2)
  """Keep this number of the newest checkpoints, beside the best on validation."""


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
  """Several processes, usually one per host, as one run: each is started with the same flags and its own id."""

  __pydantic_config__ = STRICT

  coordinator: Annotated[str | None, Unset("no other processes, or those that --distributed.auto finds")] = carried_out(
    None
  )
  """Say HOST:PORT of process 0, which all others can reach."""
  num_processes: Annotated[Size | None, Unset("with --distributed.coordinator")] = carried_out(None)
  """Say how many processes there are."""
  process_id: Annotated[Whole | None, Unset("with --distributed.coordinator")] = carried_out(None)
  """Say which process this one is, from 0."""
  auto: bool = carried_out(False)
  """Have JAX find the others, on a TPU pod slice. Under SLURM and Open MPI it does so without this flag."""
  timeout: Count = carried_out(300)
  """Wait so many seconds for the others at the start."""
  heartbeat: Count = carried_out(30)
  """Count a process as lost after so many seconds without a sign of life; then all others stop."""


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
  """Fill in unset flags from this published training."""
  epochs: Count | None = None
  """Pass over the training images so many times."""
  batch_size: Count | None = None
  """Take so many images per step, over all devices."""
  seed: Annotated[int, Ge(0), Lt(2**32)] = 0
  """Draw weights, order, augmentation and dropout from this number."""
  weights: Annotated[Path | None, Unset("drawn from the seed")] = None
  """Start from a file of weights (.safetensors, .pth, .keras, ...), which may describe its network, or from one of the
  Hugging Face hub, hf://OWNER/NAME[@REVISION][/FILE]."""
  weights_digest: Annotated[str | None, Unset("any file is taken")] = added(None)
  """Refuse a file of weights with another SHA-256 digest. Of the hub's files it is found, and recorded."""
  weights_revision: Annotated[str | None, Unset("as --weights says")] = added(None, carried_out=True)
  """Record the hub's branch or tag that --weights named; a run that goes on keeps the commit that this was at its
  start."""
  reset_classifier: bool = False
  """Start with a fresh classifier, for other classes than those of --weights."""
  freeze: tuple[str, ...] = ()
  """Keep the weights of these parts: stem, block1, transition1, ..., last, classifier; layers as block1/layer2."""
  freeze_statistics: bool = False
  """Train with batch norm's running averages, unchanged, and without dropout."""
  statistics_groups: Count = 1
  """Normalise so many equal parts of a batch separately, as on so many GPUs; 1: the whole batch."""
  last_batch: Literal["drop", "keep"] = "drop"
  """Drop or keep an epoch's smaller last batch (the authors keep it; a device mesh needs one size)."""
  report: Literal["last", "best"] | None = None
  """Report the test error of the last network, or of the best on validation."""
  out: Path | None = carried_out(None)
  """Write the run into this folder."""
  devices: Annotated[Size | None, Unset("all")] = carried_out(None)
  """Share the batch among so many of this machine's devices."""
  parallel: Literal["jit", "pmap"] = carried_out("jit")
  """Run the step on every device by jax.jit with jax.shard_map, or by jax.pmap."""
  shard_state: bool = carried_out(False)
  """Shard parameters and the optimizer's means over the devices, for large networks; steps gather the parameters."""
  accumulation: Count = carried_out(1)
  """Process a device's batch in so many pieces, one after another, if it does not fit; each has whole groups."""
  steps_per_dispatch: Annotated[Count | None, Unset("the device decides: 1 on a CPU, else 32")] = carried_out(None)
  """Have a device take so many steps per command of the host."""
  evaluation_batch_size: Count = carried_out(256)
  """Evaluate so many images per step."""
  tensorboard: bool = carried_out(False)
  """Write TensorBoard events too (extra `tensorboard`)."""
  wandb: Annotated[str | None, Unset("nothing is sent")] = added(None, carried_out=True)
  """Send scalars, configuration and figures to this project of Weights & Biases (extra `wandb`), whose own environment
  says the rest: WANDB_MODE=offline, WANDB_ENTITY, WANDB_API_KEY."""
  profile: bool = carried_out(False)
  """Record a few commands to the device in RUN/profile, for TensorBoard or ui.perfetto.dev."""
  debug_nans: bool = carried_out(False)
  """Stop at the first operation that yields a NaN, with its traceback; slow."""


# Fields of `RunConfig` that records of earlier versions have: the only value that this version takes, and why.
RETIRED = {"seeds_per_device": (1, "this version has no several seeds in one program")}


def without_retired(record: Any) -> Any:
  """The JSON of a configuration without fields of earlier versions.

  Raises:
    Misfit: such a field has a value that this version cannot carry out.
  """
  if not isinstance(record, dict):
    return record  # `from_json` refuses it.
  for name in record.keys() & RETIRED.keys():
    left, why = RETIRED[name]
    if json.dumps(record[name]) != json.dumps(left):
      raise Misfit(f"{name} {json.dumps(record[name])[:60]}: {why}")
  return {name: value for name, value in record.items() if name not in RETIRED}
