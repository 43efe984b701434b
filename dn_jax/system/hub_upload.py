"""Uploads a network to the Hugging Face hub, as one commit."""

import pathlib
from collections.abc import Callable, Mapping

from dn_jax.errors import ConfigurationError
from dn_jax.system import hub
from dn_jax.system.hub import Address

WEIGHTS, CARD = "model.safetensors", "README.md"


def check(flag: str, address: Address, public: bool) -> None:
  """Refuses what could not be uploaded to, or would be seen by all, before the work begins.

  Raises:
    ConfigurationError: the address is of a commit or another kind of file, or of a public repository where `public` is
      not given; or the hub does not answer.
  """
  if address.is_of_a_commit:
    raise ConfigurationError(flag, address, "is a commit, which does not change; give a branch, or none")
  if address.file and not address.file.endswith(".safetensors"):
    raise ConfigurationError(flag, address, "the file must end in .safetensors")
  with hub.asking(flag, address):
    if (private := _is_private(address)) is None and address.revision:
      raise ConfigurationError(flag, address, "there is no such repository; a new one has the branch main alone")
    if private is False and not public:
      raise ConfigurationError(flag, address, "is a public repository; give --public, and all can see the network")


def upload(
  flag: str, address: Address, files: Mapping[str, pathlib.Path | bytes], public: bool, say: Callable[[str], None]
) -> str:
  """Makes a repository, unless it is there, and uploads files as one commit.

  Args:
    flag: that gave the address.
    address: a repository, and perhaps a branch of it.
    files: by their names there.
    public: whether all can see a new repository.
    say: told what is uploaded, and to where, before that is done.

  Returns:
    The commit.

  Raises:
    ConfigurationError: no `huggingface_hub`, no answer, no right to write there, or the hub refuses the files.
  """
  with hub.asking(flag, address) as library:
    private = _is_private(address)
    kind = "a new" if private is None else "the"
    visible = "private" if (private is None and not public) or private else "public"
    size = sum(len(each) if isinstance(each, bytes) else each.stat().st_size for each in files.values())
    what = f"{' and '.join(files)} ({size / 2**20:.1f} MiB)"
    say(f"uploading {what} to {address}, {kind} {visible} repository of {hub.where()}")
    api = library.HfApi()
    if private is None:
      api.create_repo(address.repository, private=not public, exist_ok=True)
    operations = [library.CommitOperationAdd(name, content) for name, content in files.items()]
    made = api.create_commit(
      address.repository, operations, commit_message="Upload by dn_jax", revision=address.revision
    )
  return made.oid


def _is_private(address: Address) -> bool | None:
  """Whether a repository is private; None where there is none."""
  import huggingface_hub
  from huggingface_hub.errors import RepositoryNotFoundError

  try:
    info = huggingface_hub.HfApi().model_info(address.repository, revision=address.revision, timeout=hub.PATIENCE)
  except RepositoryNotFoundError:
    return None
  return bool(info.private)
