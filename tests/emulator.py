"""A bucket: an emulator of Google's service, in a process of its own."""

import contextlib
import functools
import socket
import subprocess
import sys
from collections.abc import Iterator

# The emulator leaves out what TensorStore relies on: which generation of an object was read, and conditions on it.
SERVE = """
import sys, threading
from http import HTTPStatus
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

def generation(request, storage):
  name = request.query["name"][0] if "name" in request.query else request.params["object_id"]
  try:
    return str(storage.get_file_obj(request.params["bucket_name"], name)["generation"])
  except NotFound:
    return "0"

def conditional(handler):
  def handle(request, response, storage, *rest, **more):
    now = generation(request, storage)
    wanted, known = (request.query.get(f"ifGeneration{how}", [None])[0] for how in ("Match", "NotMatch"))
    if wanted not in (None, now):
      response.status = HTTPStatus.PRECONDITION_FAILED
    elif known == now != "0":
      response.status = HTTPStatus.NOT_MODIFIED
    else:
      handler(request, response, storage, *rest, **more)
      response["x-goog-generation"] = generation(request, storage)
      response["x-goog-metageneration"] = "1"
  return handle

for name in ("get", "download", "insert", "delete"):
  setattr(objects, name, conditional(getattr(objects, name)))

from gcp_storage_emulator.server import create_server
create_server("localhost", int(sys.argv[1]), in_memory=True, default_bucket="bucket").start()
print("up", flush=True)
threading.Event().wait()
"""


@functools.cache
def _port() -> int:
  """A free one, always the same: TensorStore and array_record ask the environment once a process."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]


@contextlib.contextmanager
def serving() -> Iterator[dict[str, str]]:
  """The environment in which gs://bucket is the emulator's."""
  port = _port()
  server = subprocess.Popen(
    [sys.executable, "-c", SERVE, str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
  )
  try:
    assert server.stdout.readline() == "up\n"
    # gcsfs and google-cloud ask the first, TensorStore, which Orbax writes with, the second, array_record the third.
    names = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT")
    yield dict.fromkeys(names, f"http://localhost:{port}")
  finally:
    server.kill()
    server.wait()
