"""A kept program is the compiled one, bit for bit; one that is damaged, or of anything else, is compiled anew."""

import hashlib
import os
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import bits
from jax.sharding import PartitionSpec

import dn_jax
from dn_jax.distributed.layout import Layout, make_layout_of_one, replicate
from dn_jax.system import compilation, folders, kept_programs


@pytest.fixture
def folder(kept_programs_in):
  return kept_programs_in


def descend(state, x, unused):
  """Few operations, of which a compiler that rounds otherwise would make other bits."""
  w = state["w"] - 0.1 * jnp.tanh(x @ state["w"]) / jnp.sqrt(1 + jnp.sum(jnp.square(x)))
  return {"w": w, "n": state["n"] + 1}, jnp.mean(w)


def arguments(layout, size=8):
  rng = np.random.RandomState(0)
  square = lambda: rng.randn(size, size).astype(np.float32)
  return replicate(({"w": square(), "n": np.int32(3)}, square(), np.float32(0)), layout.mesh)


def compiled(layout, function=descend, size=8):
  given = arguments(layout, size)
  return layout.compiled(function, given, (given[0], "mean"), donate=(0,))


def program(layout, function=descend, donate=(0,), size=8):
  given = arguments(layout, size)
  made_of = (function, layout, PartitionSpec(), PartitionSpec())
  return kept_programs.Program(made_of, given, (given[0], "mean"), donate, layout.mesh)


def files(folder):
  return sorted(folder.glob("*")) if folder.exists() else []


def test_a_program_that_was_kept_is_the_traced_one_bit_for_bit(folder, untraced):
  layout = make_layout_of_one()
  traced = compiled(layout)
  untraced()
  kept = compiled(layout)
  assert kept is not traced
  ours, theirs = arguments(layout), arguments(layout)
  for _ in range(3):  # The first call goes another way through JAX than later ones.
    before = ours
    found, expected = kept(*ours), traced(*theirs)
    assert bits(found) == bits(expected)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
      assert (jax.typeof(one), one.sharding, one.committed) == (jax.typeof(other), other.sharding, other.committed)
    # The state is donated, and nothing else.
    assert [leaf.is_deleted() for leaf in jax.tree.leaves(before)] == [True, True, False, False]
    ours, theirs = (found[0], *ours[1:]), (expected[0], *theirs[1:])
  assert kept.memory_analysis().alias_size_in_bytes == traced.memory_analysis().alias_size_in_bytes > 0


def test_a_program_that_jax_itself_had_kept_is_whole_too(folder, untraced):
  # The CPU's runtime writes a program that it has read without its functions, which shows when it is run.
  layout = make_layout_of_one()
  expected = bits(compiled(layout)(*arguments(layout)))
  (file,) = files(folder)
  file.unlink()
  compiled(layout)
  assert files(folder) == [file]
  untraced()
  assert bits(compiled(layout)(*arguments(layout))) == expected


def test_a_kept_program_refuses_arguments_that_it_was_not_compiled_for(folder, untraced):
  layout = make_layout_of_one()
  compiled(layout)
  untraced()
  kept = compiled(layout)
  with pytest.raises(TypeError, match="compiled"):
    kept(*arguments(layout, size=9))
  with pytest.raises(TypeError, match="pytree"):
    kept(*arguments(layout)[:2])


def other(state, x, unused):
  return descend(state, x + 1, unused)


def damages():
  def shortened(file):
    file.write_bytes(file.read_bytes()[:-100])

  def without_a_header(file):
    file.write_bytes(file.read_bytes().split(b"\n", 1)[0])

  def flipped(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

  def another(file):
    file.unlink()
    compiled(make_layout_of_one(), other)
    next(iter(files(file.parent))).rename(file)

  def sealed_nonsense(file):
    rest = file.read_bytes().split(b"\n", 2)[1] + b"\nnonsense"
    file.write_bytes(hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)

  def emptied(file):
    file.write_bytes(b"")

  def a_folder(file):
    file.unlink()
    file.mkdir()

  return (shortened, without_a_header, flipped, another, sealed_nonsense, emptied, a_folder)


@pytest.mark.parametrize("damage", damages(), ids=lambda damage: damage.__name__)
def test_a_file_that_is_not_whole_or_of_another_program_is_not_run(folder, damage, capfd):
  layout = make_layout_of_one()
  expected = bits(compiled(layout)(*arguments(layout)))
  (file,) = files(folder)
  damage(file)
  assert program(layout).find() is None
  assert bits(compiled(layout)(*arguments(layout))) == expected
  assert capfd.readouterr() == ("", "")
  if not file.is_dir():  # It is written anew.
    assert program(layout).find() is not None


def test_a_damaged_program_does_not_reach_the_runtime(folder, monkeypatch):
  layout = make_layout_of_one()
  compiled(layout)
  (file,) = files(folder)
  file.write_bytes(file.read_bytes()[:-1])
  unpacked = []
  monkeypatch.setattr(kept_programs.zlib, "decompress", unpacked.append)
  assert program(layout).find() is None
  assert unpacked == []


def test_a_disk_that_takes_nothing_stops_no_run(folder, monkeypatch):
  def full(path, content):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(folders, "write_whole", full)
  layout = make_layout_of_one()
  assert bits(compiled(layout)(*arguments(layout)))
  assert files(folder) == []


def test_a_program_is_found_by_all_that_it_depends_on(folder, monkeypatch):
  layout = make_layout_of_one()
  keys = {
    "as it is": program(layout).key,
    "function": program(layout, other).key,
    "shapes": program(layout, size=9).key,
    "donation": program(layout, donate=()).key,
    "layout": program(Layout(layout.devices, 2)).key,
  }
  for name, setting in {"jax_enable_x64": True, "jax_default_matmul_precision": "highest"}.items():
    before = getattr(jax.config, name)
    jax.config.update(name, setting)
    keys[name] = program(layout).key
    jax.config.update(name, before)
  with jax.default_matmul_precision("float32"):
    keys["a setting of this thread"] = program(layout).key
  for name, change in {
    "compiler": lambda patch: patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true"),
    "processor": lambda patch: patch.setattr(kept_programs, "_processor", lambda: ["another"]),
    "sources": lambda patch: patch.setattr(kept_programs, "_sources", lambda: "others"),
    "versions": lambda patch: patch.setattr(kept_programs.metadata, "version", lambda name: "0.0"),
    "topology": lambda patch: patch.setattr(kept_programs, "_topology", lambda mesh: 7),
    "python": lambda patch: patch.setattr(kept_programs.platform, "python_version", lambda: "3.0"),
  }.items():
    with pytest.MonkeyPatch.context() as patch:
      change(patch)
      keys[name] = program(layout).key
  assert len(set(keys.values())) == len(keys)
  assert None not in keys.values()
  assert program(layout).key == keys["as it is"]


def test_the_digest_of_sources_covers_every_file_of_the_package(tmp_path, monkeypatch):
  package = tmp_path / "dn_jax"
  (package / "system").mkdir(parents=True)
  (package / "models").mkdir()
  monkeypatch.setattr(kept_programs.provenance, "PACKAGE", package)
  found = set()
  for text in ("a = 1", "a = 2"):
    (package / "models" / "densenet.py").write_text(text)
    found.add(kept_programs._on_disk())
  (package / "models" / "densenet.py").rename(package / "models" / "resnet.py")
  found.add(kept_programs._on_disk())
  assert len(found) == 3


def test_code_that_has_changed_since_it_was_loaded_is_neither_found_nor_kept(folder, tmp_path, monkeypatch):
  layout, package = make_layout_of_one(), tmp_path / "dn_jax"
  package.mkdir()
  (package / "step.py").write_text("a = 1")
  monkeypatch.setattr(kept_programs.provenance, "PACKAGE", package)
  monkeypatch.setattr(kept_programs, "_AT_IMPORT", kept_programs._on_disk())
  monkeypatch.setattr(dn_jax, "LOADED", time.time_ns() + 10**10)
  assert program(layout).key
  # While it is traced.
  late = program(layout)
  assert late.find() is None
  (package / "step.py").write_text("a = 2")
  late.compile(jax.jit(descend).lower(*arguments(layout)))
  assert program(layout).key is None
  compiled(layout)
  assert files(folder) == []
  # Between a module's import and the first digest.
  monkeypatch.setattr(kept_programs, "_AT_IMPORT", kept_programs._on_disk())
  assert program(layout).key
  monkeypatch.setattr(dn_jax, "LOADED", (package / "step.py").stat().st_mtime_ns)
  assert program(layout).key is None


def test_how_devices_lie_is_told_as_jax_tells_it():
  mesh = make_layout_of_one().mesh
  found = SimpleNamespace(fingerprint=lambda: 12345)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("jax._src.lib.xla_client.get_topology_for_devices", lambda devices: found)
    assert kept_programs._topology(mesh) == 12345

    def unknown(devices):
      raise jax.errors.JaxRuntimeError("UNIMPLEMENTED")

    patch.setattr("jax._src.lib.xla_client.get_topology_for_devices", unknown)
    assert kept_programs._topology(mesh) is None


def with_effects(state, x, unused):
  jax.debug.callback(lambda: None)
  return descend(state, x, unused)


def test_a_program_that_calls_the_host_is_not_kept(folder):
  compiled(make_layout_of_one(), with_effects)
  assert files(folder) == []


def test_nothing_is_kept_unless_asked_for_nor_under_pmap_or_while_nans_are_looked_for(folder, monkeypatch):
  layout = make_layout_of_one()
  compiled(Layout(layout.devices, parallel="pmap"))
  with jax.debug_nans(True):
    compiled(layout)
  monkeypatch.setattr(kept_programs, "_folder", None)
  compiled(layout)
  assert files(folder) == []


def test_programs_lie_beside_those_that_jax_keeps_but_in_no_bucket(tmp_path, monkeypatch):
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
  where, before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs
  monkeypatch.setattr(kept_programs, "_folder", None)
  try:
    for cache in (str(tmp_path), "gs://bucket/cache"):
      jax.config.update("jax_compilation_cache_dir", cache)
      compilation.keep_compiled_programs()
      assert kept_programs._folder == (tmp_path / "steps" if cache == str(tmp_path) else None)
  finally:
    jax.config.update("jax_compilation_cache_dir", where)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)


def test_programs_that_were_used_least_recently_make_room(folder, monkeypatch):
  layout = make_layout_of_one()
  functions = [descend, other]
  for function in functions:
    compiled(layout, function)
  first, second = (folder / f"{program(layout, function).key}.program" for function in functions)
  os.utime(first, (1, 1))
  os.utime(second, (2, 2))
  assert program(layout).find() is not None  # The first is used.
  monkeypatch.setattr(kept_programs, "MOST_BYTES", first.stat().st_size + second.stat().st_size + 100)
  compiled(layout, size=9)
  third = folder / f"{program(layout, size=9).key}.program"
  assert set(files(folder)) == {first, third}
