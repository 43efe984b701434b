"""Where a run's scalars go beside its records: TensorBoard, Weights & Biases."""

import contextlib
import dataclasses
import pathlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from dn_jax.config.check import to_dict
from dn_jax.config.resolve import slug
from dn_jax.config.schema import RunConfig
from dn_jax.errors import ConfigurationError, shown
from dn_jax.runs.contents import EpochRecord, Summary
from dn_jax.system import folders

# Folders of a run's.
TENSORBOARD, WANDB = "tensorboard", "wandb"
# Seconds that the end of a run waits for W&B to upload what is left.
_UPLOAD = 60.0


class Sink(Protocol):
  """Takes what the first process of a run records."""

  def resume(self, records: Sequence[EpochRecord]) -> None:
    """Takes the epochs that a checkpoint holds, before the first one of this start."""

  def epoch(self, record: EpochRecord) -> None:
    """Takes an epoch."""

  def end(self, summary: Summary, figure: pathlib.Path) -> None:
    """Takes the summary of a finished run, and the figure of its curves."""

  def close(self) -> None:
    """Comes last, also where the run was stopped."""


def check(config: RunConfig) -> None:
  """Refuses, before any work, a sink that cannot be.

  Raises:
    ConfigurationError: its package is missing, it has no such project, or `--out` is a bucket's.
  """
  for flag in (TENSORBOARD, WANDB):
    if (value := getattr(config, flag)) and folders.is_bucket(config.out):
      raise ConfigurationError(flag, value, "is written to a folder of this machine, and --out is a bucket's")
  try:
    if config.tensorboard:
      import tensorboardX  # noqa: F401
  except ImportError:
    raise ConfigurationError(TENSORBOARD, True, "needs an extra: pip install -e '.[tensorboard]'") from None
  if config.wandb is not None:
    _settings(config)


@contextlib.contextmanager
def opened(config: RunConfig, say: Callable[[str], None]) -> Iterator[list[Sink]]:
  """The sinks of a run, closed in the end.

  Args:
    config: of the run, whose folder exists.
    say: prints a line.

  Raises:
    ConfigurationError: Weights & Biases refuses the run, or cannot be reached.
  """
  with contextlib.ExitStack() as stack:
    sinks: list[Sink] = []
    if config.tensorboard:
      sinks.append(TensorBoard(config.out / TENSORBOARD))
      stack.callback(sinks[-1].close)
    if config.wandb is not None:
      sinks.append(WeightsAndBiases(config, say))
      stack.callback(sinks[-1].close)
    yield sinks


class TensorBoard:
  """A `Sink`: a file of events for each start."""

  def __init__(self, folder: pathlib.Path):
    import tensorboardX

    self._writer = tensorboardX.SummaryWriter(str(folder))

  def resume(self, records: Sequence[EpochRecord]) -> None:
    """Earlier starts have files of their own."""

  def epoch(self, record: EpochRecord) -> None:
    for name, value in _scalars(record).items():
      self._writer.add_scalar(name, value, record.step)
    self._writer.flush()

  def end(self, summary: Summary, figure: pathlib.Path) -> None:
    """The curves are TensorBoard's own."""

  def close(self) -> None:
    self._writer.close()


class WeightsAndBiases:
  """A `Sink`: a run at Weights & Biases (W&B), with an id kept in RUN/wandb/id, so that a resumed run goes on there.

  W&B's own environment (WANDB_MODE, WANDB_ENTITY, WANDB_API_KEY, ...) says where that is. An error after the start is
  a line, and ends the sink, not the training. Each start gives W&B all epochs: it leaves out those of steps that it
  has, and an offline start has the whole run.
  """

  def __init__(self, config: RunConfig, say: Callable[[str], None]):
    import wandb

    self._say, self._failed = say, False
    own, settings = _id(config.out / WANDB), _settings(config)
    try:
      # Of the whole process, so that W&B neither prints nor asks for a key.
      wandb.setup(settings)
      self._run = wandb.init(
        project=config.wandb,
        dir=str(config.out),
        id=own,
        name=slug(config),
        config=to_dict(config),
        resume="allow",
      )
    except Exception as error:  # Of its own kinds, pydantic's and the network's.
      _abandon()
      # A server that is not there has no kind of error to itself.
      refuses = isinstance(error, wandb.errors.UsageError | wandb.errors.AuthenticationError | ValueError)
      said = f"{'refuses' if refuses else 'cannot be reached, or refuses'}: {_line(error).rstrip('.')}"
      raise ConfigurationError(WANDB, config.wandb, f"W&B {said}; WANDB_MODE=offline keeps it here") from None
    self._kept = shown(self._run.settings.sync_dir)
    where = self._run.url or ("disabled" if self._run.disabled else f"offline; 'wandb sync {self._kept}' uploads it")
    say(f"W&B: {where}")

  def resume(self, records: Sequence[EpochRecord]) -> None:
    for record in records:
      self.epoch(record)

  def epoch(self, record: EpochRecord) -> None:
    # Without commit it would be sent with the next one.
    self._try(lambda: self._run.log({"epoch": record.epoch, **_scalars(record)}, step=record.step, commit=True))

  def end(self, summary: Summary, figure: pathlib.Path) -> None:
    def send() -> None:
      import wandb

      # At W&B's newest step: it may have gone past the run's last one, if this is a later start.
      self._run.log({"curves": wandb.Image(str(figure))})
      self._run.summary.update(to_dict(summary))
      self._run.finish()

    self._try(send)

  def close(self) -> None:
    # Of a run that has ended it does nothing; of another W&B says that it failed, until it is resumed.
    self._try(lambda: self._run.finish(exit_code=1))
    _abandon()

  def _try(self, action: Callable[[], None]) -> None:
    if self._failed:
      return
    try:
      action()
    except Exception as error:  # Whatever it is, hours of training do not depend on it.
      self._failed = True
      _abandon()
      self._say(f"W&B: {_line(error)}; training does without it ('wandb sync {self._kept}' uploads what it has)")


def _settings(config: RunConfig) -> Any:
  """W&B's settings for a run.

  Raises:
    ConfigurationError: the package is missing, or the project cannot have this name.
  """
  try:
    import wandb
  except ImportError:
    raise ConfigurationError(WANDB, config.wandb, "needs an extra: pip install -e '.[wandb]'") from None
  if not config.wandb:  # For W&B the name of a project of its own.
    raise ConfigurationError(WANDB, "''", "give a project's name")
  try:
    return wandb.Settings(
      project=config.wandb,
      silent=True,
      console="off",
      symlink=False,  # A run's folder has no links.
      finish_timeout=_UPLOAD,
      finish_timeout_raises=True,
    )
  except Exception as error:
    raise ConfigurationError(WANDB, config.wandb, f"W&B refuses: {_line(error)}") from None


def _id(folder: pathlib.Path) -> str:
  """The run's id at W&B, drawn at its first start with it; `folder` is RUN/wandb."""
  path = folder / "id"
  if not path.exists():
    folders.make_own(folder)
    folders.write_whole(path, f"{secrets.token_hex(8)}\n")
  return folders.read(path).decode(errors="replace").strip()


def _abandon() -> None:
  """Ends W&B's process, which may be gone already; else that would be tried, and fail, at this process's end."""
  import wandb

  with contextlib.suppress(Exception):
    wandb.teardown(exit_code=1)


def _line(error: Exception) -> str:
  import pydantic

  if isinstance(error, pydantic.ValidationError):  # Whose text lists all, each with an address.
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
  return " ".join(str(error).split()) or type(error).__name__


def _scalars(record: EpochRecord) -> Mapping[str, float]:
  return {name: value for name, value in dataclasses.asdict(record).items() if isinstance(value, float)}
