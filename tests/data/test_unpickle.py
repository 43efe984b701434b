"""Pickles of arrays are read, and nothing in them is run."""

import codecs
import collections
import contextlib
import datetime
import io
import pickle
import time
import tracemalloc

import makers_files
import numpy as np
import pytest

from dn_jax.data.unpickle import BadPickleError, unpickle
from dn_jax.weights import pickled

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
VALUES = {
  "bytes": b"\x00\xff" * 300,
  "none": b"",
  "text": "gr\u00fcn",
  "list": [1, -2, 2**40, 2.5, True, None, "x", [b"y", {"z": (1, 2)}]],
  "bytearray": bytearray(b"abc"),
}
ARRAYS = {
  "rows": np.arange(24, dtype=np.uint8).reshape(4, 6),
  "columns": np.asfortranarray(np.arange(24, dtype=np.int16).reshape(4, 6)),
  "part": np.arange(24, dtype=np.float32).reshape(4, 6)[::2, 1:],
  "big-endian": np.arange(5, dtype=">i4"),
  "words": np.array(["cat", "horse"]),
  "bytes": np.array([b"cat", b"horse"]),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_values_are_as_pickle_itself_reads_them(protocol):
  values = VALUES if protocol == 5 else {name: value for name, value in VALUES.items() if name != "bytearray"}
  content = pickle.dumps(values, protocol)
  assert unpickle(content) == pickle.loads(content) == values


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_as_numpy_wrote_them(protocol, name):
  found = unpickle(pickle.dumps({"it": ARRAYS[name]}, protocol))["it"]
  np.testing.assert_array_equal(found, ARRAYS[name])
  assert found.dtype == ARRAYS[name].dtype


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numbers_of_numpy_become_pythons(protocol):
  found = unpickle(pickle.dumps({"labels": [np.uint8(7), np.int64(-3), np.float32(0.5), np.bool_(True)]}, protocol))
  assert found == {"labels": [7, -3, 0.5, True]}
  assert [type(label) for label in found["labels"]] == [int, int, float, bool]


def test_pythons_2_strings_are_bytes_and_its_arrays_of_an_old_numpy_are_read():
  content = makers_files.python2({"data": ARRAYS["rows"], "names": ["a.png"]})
  assert b"numpy.core.multiarray" in content
  found = unpickle(content)
  assert found[b"names"] == [b"a.png"]
  np.testing.assert_array_equal(found[b"data"], ARRAYS["rows"])


class Reduced:
  """Pickled as a call."""

  def __init__(self, *call):
    self.call = call

  def __reduce__(self):
    return self.call


class State:
  """Pickled as a numpy array with a state of ours."""

  def __init__(self, *state):
    self.state = state

  def __reduce__(self):
    return np.ndarray.__reduce__(np.zeros(1))[0], (np.ndarray, (0,), b"b"), self.state


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
  ("value", "message"),
  [
    (Reduced(eval, ("1",)), r"holds an object of '(__builtin__|builtins)\.eval', which is not built"),
    (Reduced(getattr, ("x", "upper")), r"holds an object of '(__builtin__|builtins)\.getattr'"),
    (datetime.date(2026, 1, 1), r"holds an object of 'datetime\.date'"),
    (collections.OrderedDict(), r"holds an object of 'collections\.OrderedDict'"),
    (np.random.RandomState(0), r"holds an object of 'numpy\.random\._pickle\.__randomstate_ctor'"),
    (np.array([None]), r"holds numpy\.dtype\('O8'\)"),
    (np.zeros(1, [("a", "u1")]), r"holds numpy\.dtype\('V1'\)"),
    (np.array(["2026-01-01"], np.datetime64), r"holds numpy\.dtype\('M8'\)"),
    (np.matrix([[1]]), r"holds an object of 'numpy\.matrix'"),
    (State(1, (2,), np.dtype("u1"), False, [1, 2]), "holds a numpy array of objects"),
    (State(1, (2,), "u1", False, b"ab"), "holds a numpy array of objects"),
    (State(1, (3,), np.dtype("u1"), False, b"ab"), "is no pickle, or a damaged one"),
  ],
)
def test_every_other_object_is_refused_by_name(protocol, value, message):
  with pytest.raises(BadPickleError, match=message):
    unpickle(pickle.dumps({"it": value}, protocol))


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "is no pickle"),
    (b"\x80\x02", "is no pickle"),
    (b"not a pickle", "is no pickle"),
    (pickle.dumps({"it": b"x" * 1000})[:500], "is no pickle"),
    (pickle.dumps([1]), "is no pickled dictionary"),
    (b"cos\nsystem\n(S'true'\ntR.", r"'os\.system'"),
    (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", r"'os\.system'"),
    (b"(S'true'\nios\nsystem\n.", r"'os\.system'"),
    (b"P1\n.", "is no pickle"),  # A reference to something outside.
    (b"cnumpy\ndtype\n}S'x'\nI1\ns\x86b.", "is no pickle"),
    (b"cnumpy\ndtype\n}b.", "changes a function"),
    (b"c_codecs\nencode\n(X\x01\x00\x00\x00xX\x05\x00\x00\x00rot13tR.", "in another encoding than latin1"),
  ],
)
def test_what_is_damaged_or_made_by_hand_is_refused(content, message):
  with pytest.raises(BadPickleError, match=message):
    unpickle(content)


def ask(opcode, size):
  return opcode + size.to_bytes(8 if opcode in (pickle.BINBYTES8, pickle.BYTEARRAY8) else 4, "little")


@pytest.mark.parametrize(
  "content",
  [
    ask(pickle.BINBYTES8, 2**28) + b"x.",
    ask(pickle.BYTEARRAY8, 2**28) + b"x.",
    ask(pickle.BINSTRING, 2**28) + b"x.",
    b"N" + ask(pickle.LONG_BINPUT, 2**26) + b".",
  ],
)
def test_a_pickle_that_asks_for_much_gets_no_more_than_its_size(content):
  tracemalloc.start()
  try:
    with pytest.raises(BadPickleError):
      unpickle(content)
    assert tracemalloc.get_traced_memory()[1] < 2**23
  finally:
    tracemalloc.stop()


def test_bytes_of_a_text_that_is_named_again_and_again_are_counted():
  text = "x" * 1000
  content = pickle.dumps({"it": [Reduced(codecs.encode, (text, "latin1")) for _ in range(9)]}, 2)
  assert len(content) < 2000
  with pytest.raises(BadPickleError, match="builds more than its size holds"):
    unpickle(content)


def test_a_key_that_is_nested_deep_is_refused():
  # Python hashes a tuple by recursion, and crashes in one as deep as the first.
  for content in (
    b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.",
    b"\x80\x02(" + b")" + b"\x85" * 9 + b"K\x01d.",
    b"\x80\x02}(" + b")" + b"\x85" * 9 + b"K\x01u.",
    b"\x80\x04\x8f()" + b"\x85" * 9 + b"\x90.",
    b"\x80\x04()" + b"\x85" * 9 + b"\x91.",
  ):
    with pytest.raises(BadPickleError, match="has a key that is a tuple of objects"):
      unpickle(content)
  values = {"it": {(1, "a"): 2, None: {1, b"x"}}}
  assert unpickle(pickle.dumps(values)) == values


SIZE, COUNT = 2**24, 3000
LONG = SIZE.to_bytes(4, "little")
# What a pickle says once, and then again and again in a few bytes.
AGAIN = {
  "a number": (b"\x8b" + LONG + b"\x01" * SIZE + b"q\x000}", b"h\x00Ns"),
  "a name": (b"X" + LONG + b"a" * SIZE + b"q\x000", b"h\x00h\x00\x930"),
  "bytes": (b"B" + LONG + b"a" * SIZE + b"q\x000}", b"h\x00Ns"),
  "a dtype": (b"B" + LONG + b"f" * SIZE + b"q\x000", b"cnumpy\ndtype\nh\x00\x85R0"),
}


@pytest.mark.parametrize("kind", AGAIN)
def test_what_is_large_and_named_again_and_again_takes_its_time_once(kind):
  once, again = AGAIN[kind]
  content = b"\x80\x04" + once + again * COUNT + b"N."
  begin = time.process_time()
  with contextlib.suppress(Exception):
    pickled._unpickled(io.BytesIO(content), pickled._Seen())
  assert time.process_time() - begin < 3


MANY = b"(" + b"N" * 1000 + b"tq\x00"


@pytest.mark.parametrize("call", [b"cany\nthing\nh\x00R0", b"cany\nthing\nh\x00\x810", b"cany\nthing\nh\x00}\x920"])
def test_arguments_that_are_given_again_and_again_are_counted(call):
  content = b"\x80\x04" + MANY + call * 100 + b"N."
  with pytest.raises(BadPickleError, match="builds more than its size holds"):
    pickled._unpickled(io.BytesIO(content), pickled._Seen())


def test_a_key_of_many_members_is_not_hashed():
  content = b"\x80\x04" + MANY + b"0}h\x00Ns."
  (key,) = pickled._unpickled(io.BytesIO(content), pickled._Seen())
  assert isinstance(key, pickled.Foreign)
