"""Compiled programs, kept so that a later start neither traces nor compiles them.

JAX's own cache is asked for a program once it is traced, which takes seconds for a deep network. Here a program is
filed under what it is made of: its functions with all that they close over, its arguments, devices, versions, sources,
and settings of JAX and of the compiler. A file holds a digest of the rest, a line of JSON, and the executable as the
runtime writes it, compressed; no pickle. Whatever is wrong with a file, the program is traced and compiled as if there
were none, and written again.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform
import threading
import zlib
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dn_jax.system import folders, made_of, provenance

# The most bytes of all files together. Those that were used least recently go.
MOST_BYTES = 2**30
# Settings of JAX that change no program.
_BESIDE = ("jax_compilation_cache_", "jax_persistent_cache_", "jax_transfer_guard", "jax_log", "jax_explain")
# Beginnings of the names of environment variables that change what is compiled.
_COMPILERS = ("XLA_", "LIBTPU_", "NVIDIA_TF32", "TF_")
_SUFFIX = ".program"

# Held while functions of JAX's cache are replaced.
_PATCHING = threading.Lock()
# Where programs are kept; None: nowhere.
_folder: pathlib.Path | None = None


def keep_in(folder: pathlib.Path | None) -> None:
  """Keeps programs in a folder from now on, or nowhere."""
  global _folder
  _folder = folder


@dataclasses.dataclass(frozen=True)
class Program:
  """A program for arguments of certain shapes and places, which may be kept.

  made_of:   the function that is compiled, and all that says how
  arguments: placed on the mesh
  like:      a tree like that of the results, with anything for leaves
  donate:    places of arguments whose memory the results may take
  mesh:      the devices
  """

  made_of: tuple[Any, ...]
  arguments: tuple[Any, ...]
  like: Any
  donate: tuple[int, ...]
  mesh: Mesh

  @functools.cached_property
  def key(self) -> str | None:
    """The digest of everything that the compiled program depends on; None where something in it cannot be told."""
    leaves, tree = jax.tree.flatten(self.arguments)
    try:
      placed = [
        (jax.typeof(leaf).str_short(), jax.typeof(leaf).weak_type, getattr(leaf, "sharding", None)) for leaf in leaves
      ]
      trees = [str(tree), str(jax.tree.structure(self.like))]
      return made_of.digest(
        [self.made_of, self.donate, trees, placed, self.mesh, _topology(self.mesh), _surroundings()]
      )
    except (made_of.UnknownError, metadata.PackageNotFoundError, OSError):
      return None

  def find(self) -> jax.stages.Compiled | None:
    """The program as it was kept; None where it was not, or not whole."""
    if (path := self._path()) is None:
      return None
    try:
      compiled = self._read(path.read_bytes())
      os.utime(path)
    except Exception:  # Of the disk, of the file, of another JAX: compiling mends them all.
      return None
    return compiled

  def compile(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles the program, and keeps it if it is of a kind that can be kept and the disk takes it."""
    if (path := self._path()) is None:
      return lowered.compile()
    with _passing_the_cache() as passed:
      compiled = lowered.compile()
    with contextlib.suppress(Exception):  # As in `find`; the program itself is there.
      _sources()  # Tracing may have loaded more of them.
      # In processes but the first JAX may write nothing; what it did not read is whole.
      executable = passed[-1] if passed else compiled.runtime_executable().serialize()
      if content := self._written(compiled, executable):
        folders.make(path.parent)
        folders.write_whole(path, content)
        _remove_oldest(path.parent)
    return compiled

  def _path(self) -> pathlib.Path | None:
    return _folder / (self.key + _SUFFIX) if _folder and self.key else None

  def _sharding(self, spec: list[Any]) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec(*(tuple(each) if isinstance(each, list) else each for each in spec)))

  def _written(self, compiled: jax.stages.Compiled, executable: bytes) -> bytes | None:
    whole = compiled._executable._unloaded_executable
    leaves = jax.tree.leaves(self.arguments)
    kept = sorted(whole.kept_var_idx)
    results = [(list(one.shape), one.dtype.name, one.weak_type) for one in whole.output_avals]
    specs = [_spec(sharding) for sharding in whole.output_shardings]
    plain = (
      compiled.out_tree == jax.tree.structure(self.like)
      and not compiled._params.const_args
      and whole.committed
      and not (whole.unordered_effects or whole.ordered_effects or whole.keepalive or whole.host_callbacks or whole.mut)
      and list(whole.input_shardings) == [leaves[place].sharding for place in kept]
      and all(isinstance(one.dtype, np.dtype) for one in (*whole.input_avals, *whole.output_avals))
      and list(whole.output_shardings) == [self._sharding(spec) for spec in specs]
    )
    if not plain:
      return None
    header = {"program": self.key, "name": whole.name, "arguments": kept, "results": results, "specs": specs}
    rest = json.dumps(header).encode() + b"\n" + zlib.compress(executable, 1)
    return hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest

  def _read(self, content: bytes) -> jax.stages.Compiled:
    """Raises an error of any kind where the content is not this program's, or not whole."""
    from jax._src import core
    from jax._src.interpreters import pxla

    digest, _, rest = content.partition(b"\n")
    if hashlib.sha256(rest).hexdigest().encode() != digest:
      raise ValueError("damaged")
    header, _, packed = rest.partition(b"\n")
    header = json.loads(header)
    if header["program"] != self.key:
      raise ValueError("another program")
    devices = pxla.xc.DeviceList(tuple(self.mesh.devices.flat))
    client = self.mesh.devices.flat[0].client
    executable = client.deserialize_executable(zlib.decompress(packed), executable_devices=devices)
    leaves, tree = jax.tree.flatten((self.arguments, {}))
    types = [core.typeof(leaf) for leaf in leaves]
    shardings = [leaves[place].sharding for place in header["arguments"]]
    taken = [types[place] for place in header["arguments"]]
    given = [core.ShapedArray(tuple(shape), jax.numpy.dtype(kind), weak) for shape, kind, weak in header["results"]]
    free = [None] * len(taken), [None] * len(given)
    layouts, result_layouts = pxla._get_layouts_from_executable(executable, *free, 0, taken, given)
    loaded = pxla.UnloadedMeshExecutable(
      xla_executable=executable,
      device_list=devices,
      backend=client,
      input_avals=taken,
      input_shardings=shardings,
      output_avals=given,
      output_shardings=[self._sharding(spec) for spec in header["specs"]],
      committed=True,
      name=header["name"],
      unordered_effects=[],
      ordered_effects=[],
      keepalive=[],
      host_callbacks=[],
      kept_var_idx=set(header["arguments"]),
      mut=None,
      xla_in_layouts=layouts,
      dispatch_in_layouts=pxla.get_dispatch_layouts(layouts, shardings, taken),
      xla_out_layouts=result_layouts,
      all_args_info=None,
      pgle_profiler=None,
    ).load()
    donated = [place in self.donate for place, tree in enumerate(self.arguments) for _ in jax.tree.leaves(tree)]
    about = tree.unflatten(jax.stages.ArgInfo(*each) for each in zip(types, donated, strict=True))
    return jax.stages.Compiled(loaded, [], about, jax.tree.structure(self.like))


@contextlib.contextmanager
def _passing_the_cache() -> Iterator[list[bytes]]:
  """Lists the executables that JAX's cache reads or writes meanwhile for this thread, as the runtime writes them.

  The runtime of CPUs writes one that it has read without some of its functions. So what is read is kept as it is.
  """
  passed, thread = [], threading.get_ident()

  def note(executable: bytes) -> None:
    if threading.get_ident() == thread:
      passed.append(executable)

  with _PATCHING, contextlib.ExitStack() as undo:
    with contextlib.suppress(ImportError, AttributeError):  # In another JAX; then nothing is kept.
      from jax._src import compilation_cache

      read, write = compilation_cache.extract_executable_and_time, compilation_cache.combine_executable_and_time

      def reading(entry: bytes) -> Any:
        found = read(entry)
        note(found[0])
        return found

      def writing(executable: bytes, seconds: int) -> bytes:
        note(executable)
        return write(executable, seconds)

      for function in (read, write):
        undo.callback(setattr, compilation_cache, function.__name__, function)
      compilation_cache.extract_executable_and_time = reading
      compilation_cache.combine_executable_and_time = writing
    yield passed


def _spec(sharding: Any) -> list[Any]:
  """How an array is cut, in JSON's types."""
  return [list(entry) if isinstance(entry, tuple) else entry for entry in getattr(sharding, "spec", ())]


def _remove_oldest(folder: pathlib.Path) -> None:
  """Removes the files that were used least recently, until the rest has room."""
  by_use = sorted(((path.stat(), path) for path in folder.iterdir()), key=lambda each: -each[0].st_mtime)
  total = 0
  for status, path in by_use:
    total += status.st_size
    if total > MOST_BYTES:
      path.unlink(missing_ok=True)


def _topology(mesh: Mesh) -> int | None:
  """The fingerprint of how devices lie, as JAX's own cache has it; None: the back end has none, their kinds suffice."""
  try:
    from jax._src.lib import xla_client

    return xla_client.get_topology_for_devices(list(mesh.devices.flat)).fingerprint()
  except jax.errors.JaxRuntimeError:
    return None
  except (ImportError, AttributeError):  # Another JAX.
    raise made_of.UnknownError("topology") from None


def _surroundings() -> list[Any]:
  """Everything beside a program that its compiled form depends on."""
  client = jax.devices()[0].client
  settings = {
    name: repr(getattr(jax.config, name, value))
    for name, value in sorted(jax.config.values.items())
    if not name.startswith(_BESIDE)
  }
  environment = {name: value for name, value in sorted(os.environ.items()) if name.startswith(_COMPILERS)}
  versions = {name: metadata.version(name) for name in sorted(made_of.KNOWN - {"dn_jax"})}
  return [
    settings,
    environment,
    versions,
    platform.python_version(),
    client.platform,
    client.platform_version,
    _processor() if client.platform == "cpu" else "",
    repr(jax.sharding.get_abstract_mesh()),
    _sources(),
  ]


def _processor() -> list[Any]:
  """The processor for which the CPU back end compiles, its extensions, and the number of cores that it counts on."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  found = [platform.machine(), platform.processor(), cores]
  with contextlib.suppress(OSError):
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    for name in ("model name", "flags", "Features"):
      found += [line for line in lines if line.startswith(name)][:1]
  return found


def _sources() -> str:
  """The digest of all files of this package, as they were loaded.

  Raises:
    made_of.UnknownError: one has changed since.
  """
  if (found := _on_disk()) != _AT_IMPORT or not provenance.as_loaded(provenance.PACKAGE.rglob("*.py")):
    raise made_of.UnknownError("files of the package have changed")
  return found


def _on_disk() -> str:
  """The digest of all files of this package, as they are now."""
  found = hashlib.sha256()
  for path in sorted(provenance.PACKAGE.rglob("*.py")):
    found.update(path.relative_to(provenance.PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
  return found.hexdigest()


_AT_IMPORT = _on_disk()
