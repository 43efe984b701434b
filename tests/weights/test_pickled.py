"""PyTorch's files are read without PyTorch, and nothing in them is run or taken at its word."""

import collections
import contextlib
import dataclasses
import datetime
import pickle
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch_files
from conftest import FIXTURES
from torch_files import Call, Name, Saved, Storage, view

from dn_jax import weights
from dn_jax.weights import WeightsError

ROWS = np.arange(24, dtype=np.float32).reshape(4, 6)
# As tests/fixtures/pytorch/make.py wrote them.
WRITTEN = {
  "rows": ROWS,
  "columns": ROWS.T,
  "part": ROWS[1:3, 2:5],
  "steps": ROWS[::2, 1::3],
  "half": ROWS.astype(np.float16) / 4,
  "brain": ROWS / 4,
  "double": ROWS.astype(np.float64) / 3,
  "long": ROWS.astype(np.int64),
  "bool": ROWS > 3,
  "scalar": np.float32(3.5),
  "empty": np.zeros((0, 3), np.float32),
  "parameter": ROWS * 2,
  "attribute": ROWS + 1,
}
SAVED = {"rows": ROWS, "count": np.array(7)}


def read(path, content=None):
  """The arrays of a file and what is said of it."""
  if content is not None:
    path.write_bytes(content)
  said = []
  return weights.read(path, said.append), [line.removeprefix(f"{path}: ") for line in said]


def refused(path, content):
  path.write_bytes(content)
  with pytest.raises(WeightsError) as error:
    weights.read(path, pytest.fail)
  assert str(error.value).startswith(f"{path}: ")
  assert len(str(error.value).splitlines()) == 1
  return str(error.value).removeprefix(f"{path}: ")


def same(found, arrays):
  assert set(found) == set(arrays)
  for name, value in arrays.items():
    assert found[name].shape == value.shape, name
    assert np.array_equal(found[name].astype(value.dtype), value), name
  return True


@pytest.mark.parametrize("name", ["today.pth", "before_1_6.pth"])
def test_what_pytorch_wrote_is_read_with_types_and_strides_as_it_was(name):
  assert "torch" not in sys.modules
  found, said = read(FIXTURES / "pytorch" / name)
  assert same(found, WRITTEN)
  assert said == []
  types = {each: found[each].dtype.name for each in WRITTEN}
  assert types == {each: value.dtype.name for each, value in WRITTEN.items()} | {"brain": "bfloat16"}


@pytest.mark.parametrize("name", ["checkpoint.pth.tar", "checkpoint_before_1_6.pth.tar"])
def test_of_pytorchs_checkpoints_the_state_dict_is_read_and_other_objects_are_named(name):
  found, said = read(FIXTURES / "pytorch" / name)
  assert same(found, {"rows": ROWS, "shared": ROWS[1]})
  assert said == ["its state_dict is read, not its state_dict_ema", "objects of argparse.Namespace are left unread"]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_all_of_pickles_protocols_are_read(legacy, protocol, tmp_path):
  saved = Saved()
  content = saved.content(saved.tensors(SAVED), legacy, protocol)
  assert same(read(tmp_path / "w.pth", content)[0], SAVED)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".pth.tar", ".ckpt", ".bin", ".tar", ".PTH", ".Pth.Tar", ".CKPT"])
def test_a_suffix_may_have_any_case(suffix, tmp_path):
  saved = Saved()
  assert same(read(tmp_path / f"w{suffix}", saved.content(saved.tensors(SAVED)))[0], SAVED)


@pytest.mark.parametrize(
  ("place", "others", "said"),
  [
    (("state_dict",), {"epoch": 3, "best": 0.5}, ["its state_dict is read"]),
    (("model_state_dict",), {"optimizer_state_dict": {"state": {0: {"step": 3}}}}, ["its model_state_dict is read"]),
    (("model",), {}, ["its model is read"]),
    (("model", "state_dict"), {}, ["its model.state_dict is read"]),
    (("my_network",), {"epoch": 3}, ["its my_network is read"]),
    ((), {}, []),
  ],
)
def test_weights_are_found_where_people_put_them_and_it_is_said(place, others, said, tmp_path):
  saved = Saved()
  value = saved.tensors(SAVED)
  for key in reversed(place):
    value = {key: value}
  found = read(tmp_path / "w.pth", saved.content(value | others))
  assert same(found[0], SAVED)
  assert found[1] == said


def test_tensors_beside_the_state_dict_are_none_of_it(tmp_path):
  saved = Saved()
  metrics = {"best": saved.tensor(np.float32(0.5)), "metrics": {"error": saved.tensor(np.float32(0.5))}}
  found, said = read(tmp_path / "w.pth", saved.content({"weights_of_mine": saved.tensors(SAVED), **metrics}))
  assert same(found, SAVED)
  assert said == ["its weights_of_mine is read"]


def test_dictionaries_that_name_each_other_again_and_again_are_looked_through_once(tmp_path):
  saved = Saved()
  inner = {"a": saved.tensor(ROWS)}
  for _ in range(3):
    inner = {f"key{n}": inner for n in range(2000)}
  tracemalloc.start()
  try:
    found, said = read(tmp_path / "w.pth", saved.content(inner))
    assert tracemalloc.get_traced_memory()[1] < 2**25
  finally:
    tracemalloc.stop()
  assert same(found, {"a": ROWS})
  assert said == ["its key0.key0.key0 is read"]


def test_python_2s_names_are_text(tmp_path):
  saved = Saved()
  content = saved.legacy({"state_dict": saved.tensors(SAVED)}, python2=True)
  assert pickle.SHORT_BINSTRING + b"\x04rows" in content
  assert same(read(tmp_path / "w.pth", content)[0], SAVED)


def test_parts_of_an_old_files_storage_are_read(tmp_path):
  saved = Saved()
  whole = saved.storage(ROWS)
  part = dataclasses.replace(whole, count=24, view=("a key of its own", 6, 12))
  content = saved.legacy({"part": view(part, (2, 4), (6, 1), 2)})
  assert same(read(tmp_path / "w.pth", content)[0], {"part": ROWS[1:3, 2:]})


HOSTILE = {
  "call": lambda trace: Call(Name("os", "system"), (f"touch {trace}",)),
  "eval": lambda trace: Call(Name("builtins", "eval"), (f"open({str(trace)!r}, 'w')",)),
  "object": lambda trace: Call(Name("argparse", "Namespace"), (), {"__class__": Name("os", "system")}),
  "nested": lambda trace: Call(Call(Name("builtins", "getattr"), (Name("os", "path"), "system")), (f"touch {trace}",)),
}


def runs(value):
  """Whether Python's own unpickler, which runs what it is told, can be told by this pickle."""
  return pickle.loads(torch_files.pickled(value))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", HOSTILE)
def test_an_object_that_would_run_runs_neither_beside_the_weights_nor_among_them(kind, legacy, tmp_path):
  trace = tmp_path / "was_run"
  hostile = HOSTILE[kind](trace)
  if kind == "call":
    runs(hostile)
    trace.unlink()  # So the pickle is one that Python's own unpickler runs.
  saved = Saved()
  content = saved.content({"state_dict": saved.tensors(SAVED), "args": hostile, "other": [hostile]}, legacy)
  found, said = read(tmp_path / "beside.pth", content)
  assert same(found, SAVED)
  names = {"call": "os.system", "eval": "builtins.eval", "object": "argparse.Namespace, os.system"}
  names["nested"] = "builtins.getattr, os.path"
  assert said == ["its state_dict is read", f"objects of {names[kind]} are left unread"]
  saved = Saved()
  among = saved.content({"state_dict": {**saved.tensors(SAVED), "it": hostile}}, legacy)
  answer = refused(tmp_path / "among.pth", among)
  assert answer == f"it is of {names[kind].split(',')[0]}, not a plain tensor"
  assert not trace.exists()


@pytest.mark.parametrize(
  ("value", "name"),
  [
    (np.array([None]), "numpy.dtype"),
    (np.zeros(1, [("a", "u1")]), "numpy.dtype"),
    (np.array(["2026-01-01"], np.datetime64), "numpy.dtype"),
    (np.str_("densenet"), "numpy._core.multiarray.scalar"),
    (np.matrix([[1]]), "numpy.matrix, numpy._core.multiarray._reconstruct"),
    (np.float64(0.5), None),
    (np.random.RandomState(0).get_state(), None),
    (collections.defaultdict(list), "collections.defaultdict"),
    (datetime.date(2026, 1, 1), "datetime.date"),
    ({(1, (2, 3)): 4}, None),
  ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_an_object_that_is_not_read_does_not_stand_in_the_weights_way(value, name, protocol, tmp_path):
  saved = Saved()
  content = saved.zipped({"state_dict": saved.tensors(SAVED), "other": value}, protocol)
  found, said = read(tmp_path / "w.pth", content)
  assert same(found, SAVED)
  assert said[0] == "its state_dict is read"
  if name:
    assert all(each in said[1] for each in name.split(", "))


ROW = view(Storage("Float", "0", 6), (6,), (1,))
DENSE = Storage("Float", "0", 24)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
  ("value", "answer"),
  [
    (view(DENSE, (2**40,), (1,)), "it claims 1,099,511,627,776 elements of a storage of 24"),
    (view(DENSE, (2**20, 2**20), (0, 0)), "it claims 1,099,511,627,776 elements of a storage of 24"),
    (view(Storage("Float", "0", 2**40), (2**40,), (1,)), "it is cut short: its storage has 96 bytes"),
    (view(Storage("Double", "0", 24), (24,), (1,)), "it is cut short: its storage has 96 bytes"),
    (view(DENSE, (6,), (1,), 19), "it claims 6 elements of a storage of 24"),
    (view(DENSE, (4, 6), (7, 1)), "it claims 24 elements of a storage of 24"),
    (view(DENSE, (4, 6), (6,)), "it has a shape that no tensor has"),
    (view(DENSE, (-1,), (1,)), "it has a shape that no tensor has"),
    (view(DENSE, (2,), (-1,), 5), "it has a shape that no tensor has"),
    (view(DENSE, (2,), (1,), -5), "it has a shape that no tensor has"),
    (view(DENSE, (2**70,), (1,)), "it has a shape that no tensor has"),
    (view(DENSE, (2**40,) * 9999, (1,) * 9999), "it has a shape that no tensor has"),
    (view(DENSE, (2.0,), (1,)), "it has a shape that no tensor has"),
    (view(Storage("Float", "0", -6), (6,), (1,)), "it has a shape that no tensor has"),
    (view(Storage("Float", "7", 24), (6,), (1,)), "has no storage '7'"),
    (view(DENSE, None, None), "is a damaged file of PyTorch's"),
    (view(Storage("QInt8", "0", 24), (6,), (1,)), "it is of torch.QInt8Storage, not a plain tensor"),
    (Call(Name("torch._utils", "_rebuild_sparse_tensor"), (1, 2)), "it is of torch._utils._rebuild_sparse_tensor"),
    (Call(torch_files.REBUILD, (1, 0, (1,), (1,))), "it is of int, not a plain tensor"),
    (ROW.__class__(ROW.function, ROW.arguments, {"size": (2**40,)}), "changes a tensor after it is made"),
    (Name("torch", "FloatStorage"), "it is of _Kind, not a plain tensor"),
    (3, "it is of int, not a plain tensor"),
    ({"deeper": {"yet": 3}}, "it is of dict, not a plain tensor"),
  ],
)
def test_a_tensor_that_is_none_is_refused_before_anything_is_allocated(value, answer, legacy, tmp_path):
  saved = Saved()
  tensor = saved.tensor(ROWS)
  tracemalloc.start()
  try:
    assert refused(tmp_path / "w.pth", saved.content({"rows": tensor, "it": value}, legacy)).startswith(answer)
    assert tracemalloc.get_traced_memory()[1] < 2**22
  finally:
    tracemalloc.stop()


@pytest.mark.parametrize("key", [3, None, (1, 2), b"\xff"])
def test_a_key_that_is_no_text_is_refused(key, tmp_path):
  saved = Saved()
  state = {"a": saved.tensor(ROWS), key: saved.tensor(ROWS)}
  answer = refused(tmp_path / "w.pth", saved.zipped({"state_dict": state}, 4))
  assert answer.startswith("has among its weights ")


def whole():
  saved = Saved()
  return saved.content(saved.tensors(SAVED)), saved.content(saved.tensors(SAVED), legacy=True)


def deep(opening, count):
  """A pickle of a state dict beside which something is nested."""
  saved = Saved()
  body = torch_files.pickled({"state_dict": saved.tensors({"a": ROWS})})[:-1]
  nested = {"lists": b"]" * count + b"a" * (count - 1), "tuples": b")" + b"\x85" * count}[opening]
  return torch_files.zipped({"data.pkl": body + b"X\x01\x00\x00\x00x" + nested + b"s.", "data/0": ROWS.tobytes()})


@pytest.mark.parametrize("opening", ["lists", "tuples"])
@pytest.mark.parametrize("count", [5000, 20_000])
def test_what_is_nested_deep_beside_the_weights_does_no_harm(opening, count, tmp_path):
  assert same(read(tmp_path / "w.pth", deep(opening, count))[0], {"a": ROWS})


def test_what_is_nested_deep_is_no_state_dict(tmp_path):
  lists = torch_files.zipped({"data.pkl": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b"."})
  assert refused(tmp_path / "lists.pth", lists) == "has no state dict of tensors"
  dictionaries = b"\x80\x02" + b"}X\x05\x00\x00\x00model" * 5000 + b"}" + b"s" * 5000 + b"."
  answer = refused(tmp_path / "dictionaries.pth", torch_files.zipped({"data.pkl": dictionaries}))
  assert answer == "has no state dict of tensors"
  # Python hashes a tuple by recursion, and crashes in one as deep as this.
  tuples = b")" + b"\x85" * 300_000
  called = b"\x80\x02ccollections\nOrderedDict\n(]]" + tuples + b"aK\x01aatR."
  assert refused(tmp_path / "called.pth", torch_files.zipped({"data.pkl": called})) == "has no state dict of tensors"
  key = b"\x80\x02}" + tuples + b"K\x01s."
  assert refused(tmp_path / "key.pth", torch_files.zipped({"data.pkl": key})) == "has no state dict of tensors"


def test_a_file_cut_short_anywhere_is_one_line(tmp_path):
  for content in whole():
    for length in range(0, len(content) - 1, 197):
      refused(tmp_path / "w.pth", content[:length])


def test_a_changed_byte_changes_no_weight_unnoticed(tmp_path):
  content, _ = whole()
  random = np.random.RandomState(0)
  for at in random.randint(0, len(content), 100):
    changed = bytearray(content)
    changed[at] ^= 1 + random.randint(255)
    (tmp_path / "w.pth").write_bytes(changed)
    found = SAVED
    with contextlib.suppress(WeightsError):
      found = weights.read(tmp_path / "w.pth", lambda line: None)
    assert same(found, SAVED)


def test_a_zip_bomb_is_not_opened(tmp_path):
  bomb = torch_files.zipped({"data.pkl": b"\x80\x02}.", "data/0": bytes(2**24)}, zipfile.ZIP_DEFLATED)
  assert len(bomb) < 2**17
  assert "compressed zip archive" in refused(tmp_path / "w.pth", bomb)
  # Entries that are the same bytes of the file: together they are more than it.
  stored = torch_files.zipped({"data.pkl": b"\x80\x02}.", "data/0": bytes(2**16)})
  at, end = stored.index(b"PK\x01\x02"), stored.index(b"PK\x05\x06")
  directory = stored[at:end]
  entries = [directory[: directory.index(b"PK\x01\x02", 4)], directory[directory.index(b"PK\x01\x02", 4) :]]
  many = entries[0] + b"".join(entries[1].replace(b"data/0", b"data/%c" % (48 + n)) for n in range(9))
  tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 10, 10, len(many), at, 0)
  assert "its parts are larger than the file" in refused(tmp_path / "w.pth", stored[:at] + many + tail)


@pytest.mark.parametrize(
  ("copied", "again"),
  [
    # Each time `torch.Size` of the same long list, or an OrderedDict of the same items.
    (b"]q\x01(" + b"K\x01" * 20_000 + b"e0ctorch\nSize\nq\x020", b"h\x02h\x01\x85R"),
    (
      b"]q\x01("
      + b"".join(b"J" + struct.pack("<i", n) + b"K\x01\x86" for n in range(9000))
      + b"e0ccollections\nOrderedDict\nq\x020",
      b"h\x02h\x01\x85R",
    ),
    # Python 2's text as a key, and as the name of a storage.
    (b"T" + struct.pack("<i", 50_000) + b"a" * 50_000 + b"q\x010", b"}h\x01Ns"),
    (b"(U\x07storagectorch\nFloatStorage\nT" + struct.pack("<i", 50_000) + b"a" * 50_000 + b"NK\x01tq\x010", b"h\x01Q"),
  ],
  ids=["sizes", "dictionaries", "keys", "storages"],
)
def test_what_a_pickle_names_again_and_again_takes_no_memory_each_time(copied, again, tmp_path):
  saved = Saved()
  body = torch_files.pickled({"state_dict": saved.tensors({"a": ROWS})})[:-1]
  data = body + b"X\x01\x00\x00\x00x" + copied + b"]q\x03(" + again * 400 + b"es."
  content = torch_files.zipped({"data.pkl": data, "data/0": ROWS.tobytes()})
  tracemalloc.start()
  try:
    with contextlib.suppress(WeightsError):
      assert same(read(tmp_path / "w.pth", content)[0], {"a": ROWS})
    assert tracemalloc.get_traced_memory()[1] < 2**23
  finally:
    tracemalloc.stop()


@pytest.mark.parametrize(
  ("content", "answer"),
  [
    (b"", "is no file that torch.save wrote; it begins with b''"),
    (
      b"version https://git-lfs.github.com/spec/v1",
      "is no file that torch.save wrote; it begins with b'version https://",
    ),
    (pickle.dumps({"a": 1}), "is a pickle that torch.save did not write"),
    (torch_files.zipped({"words.txt": b"no weights"}), "is a zip archive that torch.save did not write"),
    (torch_files.zipped({"data.pkl": b"\x80\x02}.", "byteorder": b"big"}), "was written on a machine of another byte"),
    (torch_files.zipped({"data.pkl": b"\x80\x02}."}), "has no state dict of tensors"),
    (torch_files.zipped({"data.pkl": b"\x80\x02P1\n."}), "has no pickle, or a damaged one"),
  ],
)
def test_another_file_is_said_to_be_one(content, answer, tmp_path):
  assert refused(tmp_path / "w.pth", content).startswith(answer)


def test_a_pickled_network_is_told_to_save_its_state_dict(tmp_path):
  network = Call(Name("torchvision.models.densenet", "DenseNet"), ())
  answer = refused(tmp_path / "w.pth", Saved().content(network))
  assert answer == "is a pickled torchvision.models.densenet.DenseNet, not its weights; save its state_dict()"
  answer = refused(tmp_path / "w.pth", Saved().content({"model": network, "epoch": 3}))
  assert answer == "has no state dict of tensors; its model is a pickled torchvision.models.densenet.DenseNet"
  answer = refused(tmp_path / "w.pth", Saved().content({"state_dict": {"a": Call(Name("os", "system"), ("true",))}}))
  assert answer == "has no state dict of tensors; its state_dict.a is a pickled os.system"


def test_of_several_dictionaries_of_tensors_none_is_guessed(tmp_path):
  saved = Saved()
  content = saved.content({"teacher": saved.tensors(SAVED), "student": saved.tensors(SAVED)})
  answer = refused(tmp_path / "w.pth", content)
  assert answer == "has several dictionaries of tensors, and which is meant is not known: teacher, student"
