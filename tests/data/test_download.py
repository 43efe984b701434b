"""Downloads from a server on the loopback address."""

import fcntl
import hashlib
import socket

import file_server
import numpy as np
import pytest

from dn_jax.data import download
from dn_jax.errors import UserError

CONTENT = np.random.RandomState(0).bytes(10**6)
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  monkeypatch.setattr(download, "_PAUSE", 0)
  with file_server.serving({"/it": CONTENT}) as server:
    yield server


def refused(address, path, md5=MD5):
  with pytest.raises(UserError) as error:
    download.download(address, path, md5)
  assert str(error.value).startswith(f"{address}: ")
  assert "\n" not in str(error.value)
  return str(error.value)


def test_a_file_comes_whole_into_a_new_folder_and_says_how_much_is_there(server, tmp_path):
  seen = []
  download.download(f"{server.address}/it", tmp_path / "new" / "it", MD5, lambda *there: seen.append(there))
  assert (tmp_path / "new" / "it").read_bytes() == CONTENT
  assert [path.name for path in (tmp_path / "new").iterdir()] == ["it"]
  assert seen[-1] == (len(CONTENT), len(CONTENT))
  assert [there for there, _ in seen] == sorted(there for there, _ in seen)


@pytest.mark.parametrize("ranges", [True, False])
def test_what_a_broken_connection_left_is_asked_for_and_a_server_without_parts_starts_over(server, tmp_path, ranges):
  server.ranges, server.cuts = ranges, [400_000, 100_000]
  download.download(f"{server.address}/it", tmp_path / "it", MD5)
  assert (tmp_path / "it").read_bytes() == CONTENT
  assert server.asked == [("/it", None), ("/it", 400_000), ("/it", 500_000 if ranges else 100_000)]


def test_a_connection_that_keeps_breaking_leaves_what_came_and_the_next_call_goes_on(server, tmp_path):
  server.cuts = [100_000] * download._ATTEMPTS
  there = 100_000 * download._ATTEMPTS
  message = refused(f"{server.address}/it", tmp_path / "it")
  assert f"{there:,} of 1,000,000 bytes came); what came is in {tmp_path / 'it.part'}, and the same command" in message
  assert (tmp_path / "it.part").read_bytes() == CONTENT[:there]
  download.download(f"{server.address}/it", tmp_path / "it", MD5)
  assert server.asked[-1] == ("/it", there)
  assert (tmp_path / "it").read_bytes() == CONTENT


def test_a_file_of_another_sum_is_deleted(server, tmp_path):
  message = refused(f"{server.address}/it", tmp_path / "it", "0" * 32)
  assert f"has the MD5 sum {MD5}, and its maker's is {'0' * 32}; it was deleted" in message
  assert not list(tmp_path.iterdir())


def test_a_part_of_another_file_is_found_out_by_the_sum(server, tmp_path):
  (tmp_path / "it.part").write_bytes(b"of another")
  assert "it was deleted" in refused(f"{server.address}/it", tmp_path / "it")
  download.download(f"{server.address}/it", tmp_path / "it", MD5)
  assert (tmp_path / "it").read_bytes() == CONTENT


def test_a_part_that_was_whole_already_is_taken_and_one_that_is_too_long_starts_over(server, tmp_path):
  for more in (b"", b"more"):
    (tmp_path / "it.part").write_bytes(CONTENT + more)
    download.download(f"{server.address}/it", tmp_path / "it", MD5)
    assert (tmp_path / "it").read_bytes() == CONTENT
  assert [first for _, first in server.asked] == [len(CONTENT), len(CONTENT) + 4, None]


def test_a_file_that_is_not_there_and_a_server_that_is_not_there_write_nothing(server, tmp_path):
  assert "cannot be downloaded (the server answers 404 Not Found)" in refused(
    f"{server.address}/no", tmp_path / "new/it"
  )
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{free.getsockname()[1]}/it"
    assert "cannot be downloaded ([Errno 111] Connection refused)" in refused(address, tmp_path / "new/it")
  assert not list(tmp_path.iterdir())


def test_a_server_that_falls_silent_is_given_up(monkeypatch, tmp_path):
  monkeypatch.setenv("no_proxy", "127.0.0.1")
  monkeypatch.setattr(download, "_PATIENCE", 0.02)
  monkeypatch.setattr(download, "_PAUSE", 0)
  with socket.create_server(("127.0.0.1", 0)) as silent:
    message = refused(f"http://127.0.0.1:{silent.getsockname()[1]}/it", tmp_path / "it")
  assert "timed out" in message
  assert not list(tmp_path.iterdir())


def test_two_processes_do_not_write_the_same_file(server, tmp_path):
  with (tmp_path / "it.part").open("ab") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    with pytest.raises(UserError, match=r"it\.part: another process downloads it"):
      download.download(f"{server.address}/it", tmp_path / "it", MD5)
