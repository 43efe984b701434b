"""Files of the Hugging Face hub, hf://OWNER/NAME[@REVISION][/FILE], through `huggingface_hub` and its cache.

HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and tokens mean what that library says. What it prints does not reach the person.
"""

import contextlib
import dataclasses
import hashlib
import io
import logging
import os
import pathlib
import re
import urllib.parse
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

from dn_jax.errors import ConfigurationError, first_line, near, shown

FORM = "hf://OWNER/NAME[@REVISION][/FILE]"
# Seconds to wait for the hub's answer.
PATIENCE = 10
_NAME = r"\w(?:[\w.-]{0,94}\w)?"
# As in huggingface_hub's own addresses, two kinds of revisions have slashes; in others these are written %2F.
_ADDRESS = re.compile(rf"hf:/+({_NAME}/{_NAME})(?:@(refs/(?:pr|convert)/[^/]+|[^/]+))?(?:/(.+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OTHER_KINDS = ("models", "datasets", "spaces", "kernels", "buckets")


class HubPath(pathlib.PurePosixPath):
  """An address as a flag's value: a path that is printed and recorded as hf://, where pathlib's would be hf:/."""

  def __str__(self) -> str:
    return re.sub(r"^hf:/+", "hf://", super().__str__())


@dataclasses.dataclass(frozen=True)
class Address:
  """A repository of models, or a file in it; without a revision, the branch `main`."""

  repository: str
  revision: str | None = None
  file: str | None = None

  def __str__(self) -> str:
    revision = self.revision and (
      self.revision if self.revision.startswith("refs/") else urllib.parse.quote(self.revision, safe="")
    )
    return f"hf://{self.repository}" + (f"@{revision}" if revision else "") + (f"/{self.file}" if self.file else "")

  @property
  def path(self) -> HubPath:
    """The address as a flag's value."""
    return HubPath(str(self))

  @property
  def branch(self) -> str:
    """The revision, by name."""
    return self.revision or "main"

  @property
  def is_of_a_commit(self) -> bool:
    """Whether its revision is a commit, which never changes."""
    return _COMMIT.fullmatch(self.branch) is not None

  @property
  def is_pinned(self) -> bool:
    """Whether it names a file of a commit."""
    return self.file is not None and self.is_of_a_commit


@dataclasses.dataclass(frozen=True)
class Fetched:
  """A file of the hub on this machine.

  address: of its commit
  digest:  SHA-256, in hexadecimal digits
  """

  address: Address
  path: pathlib.Path
  digest: str


def is_address(path: pathlib.PurePath | None) -> bool:
  """Whether a flag's path is an address of the hub, which pathlib may have turned into hf:/."""
  return path is not None and re.match(r"hf:/", str(path)) is not None


def address_of(flag: str, path: pathlib.PurePath) -> Address:
  """Reads an address.

  Raises:
    ConfigurationError: the path is none.
  """
  text = str(HubPath(path))
  match = _ADDRESS.fullmatch(text)
  repository, revision, file = match.groups() if match else ("--", None, None)
  # As huggingface_hub has it.
  if "--" in repository or ".." in repository or repository.endswith(".git") or ".." in (file or "").split("/"):
    raise ConfigurationError(flag, text, FORM)
  if (owner := repository.split("/")[0]) in _OTHER_KINDS:
    raise ConfigurationError(flag, text, f"{FORM} of a repository of models; {owner} is no owner")
  return Address(repository, urllib.parse.unquote(revision) if revision else None, file)


def digest_of(path: pathlib.Path) -> str:
  """The SHA-256 digest of a file, in hexadecimal digits."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def cached(address: Address) -> pathlib.Path | None:
  """A pinned file in the cache, where it is there; the hub is not asked."""
  with _silent():
    try:
      import huggingface_hub
    except (ImportError, ValueError):  # The latter of an HF_ENDPOINT that is no address.
      return None
    found = huggingface_hub.try_to_load_from_cache(address.repository, address.file, revision=address.branch)
  return pathlib.Path(found) if isinstance(found, str) else None


def fetch(flag: str, address: Address, suffixes: Sequence[str], say: Callable[[str], None]) -> Fetched:
  """Takes a file from the cache or the hub; of a commit that the cache has, without asking the hub.

  Without FILE, the only .safetensors is taken, or the only file with another of the suffixes.

  Args:
    flag: that gave the address.
    suffixes: of files that can be read, in small letters.
    say: told what is fetched, from where and how large it is, before that is done.

  Raises:
    ConfigurationError: no `huggingface_hub`, no answer, no right; no such repository, revision or file; several files.
  """
  if address.file and not address.file.lower().endswith(tuple(suffixes)):
    raise ConfigurationError(flag, address, f"weights are read from files that end in {', '.join(suffixes)}")
  with asking(flag, address) as hub:
    if address.is_pinned and (path := cached(address)):
      return Fetched(address, path, digest_of(path))
    if hub.constants.HF_HUB_OFFLINE:
      return _offline(flag, address, suffixes)
    info = hub.HfApi().model_info(address.repository, revision=address.branch, files_metadata=True, timeout=PATIENCE)
    files = {each.rfilename: each for each in info.siblings or ()}
    pinned = Address(address.repository, info.sha, _chosen(flag, address, list(files), suffixes))
    if not pinned.is_pinned:
      raise ConfigurationError(flag, address, f"{where()} does not name the commit")
    about = files[pinned.file]
    size = f" ({about.size / 2**20:.1f} MiB)" if about.size else ""
    if cached(pinned):
      say(f"{shown(address)}: {shown(pinned)}, which the cache has")
    else:
      # Of its own accord the library would wait six minutes for an answer to this.
      hub.get_hf_file_metadata(hub.hf_hub_url(address.repository, pinned.file, revision=info.sha), timeout=PATIENCE)
      say(f"fetching {shown(pinned)}{size} from {where()} into {hub.constants.HF_HUB_CACHE}")
    with _shown_progress() as bar:
      # By the branch's name, so that the cache knows its commit later, offline.
      path = hub.hf_hub_download(
        pinned.repository, pinned.file, revision=address.branch, etag_timeout=PATIENCE, tqdm_class=bar
      )
    if pathlib.Path(path) != cached(pinned):
      raise ConfigurationError(flag, address, "moved on to another commit meanwhile; start again")
  found = Fetched(pinned, pathlib.Path(path), digest_of(pathlib.Path(path)))
  told = getattr(about.lfs, "sha256", None)
  if told and told != found.digest:
    found.path.resolve().unlink()
    raise ConfigurationError(flag, pinned, f"what came has the SHA-256 {found.digest}, the hub says {told}; deleted")
  return found


def _offline(flag: str, address: Address, suffixes: Sequence[str]) -> Fetched:
  """Takes a file from the cache, whose layout `huggingface_hub.hf_hub_download` documents."""
  import huggingface_hub

  folder = pathlib.Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{address.repository.replace('/', '--')}"
  commit = address.branch
  if not _COMMIT.fullmatch(commit):
    reference = folder / "refs" / commit
    commit = reference.read_text().strip() if reference.is_file() else ""
  snapshot = folder / "snapshots" / commit
  files = [path.relative_to(snapshot).as_posix() for path in sorted(snapshot.rglob("*")) if path.is_file()]
  if not _COMMIT.fullmatch(commit) or not files or address.file not in (None, *files):
    raise ConfigurationError(flag, address, "is not in the cache, and HF_HUB_OFFLINE forbids to ask the hub")
  pinned = Address(address.repository, commit, _chosen(flag, address, files, suffixes))
  return Fetched(pinned, snapshot / pinned.file, digest_of(snapshot / pinned.file))


def _chosen(flag: str, address: Address, files: Sequence[str], suffixes: Sequence[str]) -> str:
  """The file that is meant, of those that a repository has."""
  readable = [file for file in files if file.lower().endswith(tuple(suffixes))]
  if address.file in files:
    return address.file
  if address.file:
    fits = near(address.file, map(shown, readable)) if readable else "it has no files of weights"
    raise ConfigurationError(flag, address, f"there is no such file; {fits}")
  found = [file for file in readable if file.lower().endswith(".safetensors")] or readable
  if len(found) == 1:
    return found[0]
  several = f"has several files of weights, {', '.join(map(shown, found))}; name one" if found else ""
  raise ConfigurationError(flag, address, several or f"has no file of weights ({', '.join(suffixes)})")


def where() -> str:
  """The hub's host; HF_ENDPOINT may have a password in it."""
  import huggingface_hub

  parts = urllib.parse.urlsplit(huggingface_hub.constants.ENDPOINT)
  return (parts.hostname or "the hub") + (f":{parts.port}" if parts.port else "")


@contextlib.contextmanager
def asking(flag: str, address: Address) -> Iterator[ModuleType]:
  """Gives `huggingface_hub`, silenced, and makes its mistakes a line; the hub's own words may repeat a token.

  Raises:
    ConfigurationError: it is not installed, HF_ENDPOINT is no address, or something fails.
  """
  _check_endpoint(flag, address)
  with _silent():
    try:
      import huggingface_hub
      import huggingface_hub.constants
      import huggingface_hub.hf_api
      import huggingface_hub.utils
    except ImportError:
      raise ConfigurationError(flag, address, "needs an extra: pip install -e '.[hub]'") from None
    huggingface_hub.utils.disable_progress_bars()
    # Some of its requests have no bound of their own.
    huggingface_hub.get_session().timeout = 6 * PATIENCE
    try:
      yield huggingface_hub
    except ConfigurationError:
      raise
    except Exception as error:  # Of the library, of two HTTP clients by its version, of the file system.
      raise ConfigurationError(flag, address, _reason(error)) from None


def _check_endpoint(flag: str, address: Address) -> None:
  """Refuses an HF_ENDPOINT at which the library fails as it is imported, or later; it may have a password in it."""
  try:
    parts = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
  except ValueError:  # Of a port, or a bracket.
    is_one = False
  if not is_one:
    raise ConfigurationError(flag, address, "HF_ENDPOINT is no address, such as https://huggingface.co")


def _reason(error: BaseException) -> str:
  """Why the hub did not do it, in words of ours."""
  kinds = {each.__name__ for each in type(error).__mro__}
  status = getattr(getattr(error, "response", None), "status_code", None)
  token = "a token (HF_TOKEN, or hf auth login)"
  if isinstance(error.__cause__, Exception) and kinds & {"LocalEntryNotFoundError", "RuntimeError"}:
    return _reason(error.__cause__)
  if "GatedRepoError" in kinds:
    return f"its owner lets in only those who asked; ask on its page, then give {token}"
  if "RevisionNotFoundError" in kinds:
    return "the repository has no such revision"
  if "EntryNotFoundError" in kinds:
    return "the repository has no such file"
  if "RepositoryNotFoundError" in kinds or status in (401, 403, 404):
    return f"there is no such repository, or it needs {token} that allows this"
  if "OfflineModeIsEnabled" in kinds:
    return "HF_HUB_OFFLINE forbids to ask the hub"
  if status is not None:
    return f"{where()} answers {status}"
  if "TimeoutException" in kinds:
    return f"{where()} does not answer; HF_HUB_OFFLINE=1 takes what the cache has"
  if "NetworkError" in kinds:
    return f"{where()} cannot be reached ({first_line(error)}); HF_HUB_OFFLINE=1 takes what the cache has"
  if isinstance(error, OSError) and error.strerror:
    return f"cannot be kept ({error.strerror})"
  return f"{where()} does not answer as a hub does ({type(error).__name__})"


@contextlib.contextmanager
def _silent() -> Iterator[None]:
  """Keeps what `huggingface_hub` logs and warns of from the person."""
  disabled = logging.root.manager.disable
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    try:
      yield
    finally:
      logging.disable(disabled)


@contextlib.contextmanager
def _shown_progress() -> Iterator[type]:
  """A class that `huggingface_hub` takes for tqdm's, whose bars are ours, on a terminal."""
  import rich.console
  import tqdm
  from rich import progress

  columns = (progress.TextColumn("{task.description}", markup=False), progress.BarColumn(), progress.DownloadColumn())
  console = rich.console.Console(stderr=True)
  with progress.Progress(*columns, console=console, disable=not console.is_terminal) as bars:

    class Bar(tqdm.tqdm):
      def __init__(self, *args: Any, desc: str = "", **options: Any):
        self.task = bars.add_task(shown(desc), total=None)
        super().__init__(*args, **options | {"file": io.StringIO(), "disable": False, "leave": False})

      def display(self, *_: Any, **__: Any) -> None:
        bars.update(self.task, completed=self.n, total=self.total)

    yield Bar
