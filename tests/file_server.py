"""A server on the loopback address that has a few files, and whose connections break where a test wants it."""

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator, Mapping


class Server(http.server.ThreadingHTTPServer):
  """Files by path.

  ranges: whether it answers requests for a part of a file
  cuts:   after so many bytes each of the next answers breaks off
  asked:  (path, first byte asked for) of each request
  """

  daemon_threads = True

  def __init__(self, files: Mapping[str, bytes]):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.files, self.ranges = dict(files), True
    self.cuts: list[int] = []
    self.asked: list[tuple[str, int | None]] = []

  @property
  def address(self) -> str:
    return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
  server: Server

  def do_GET(self) -> None:
    wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
    first = int(wanted[1]) if wanted else None
    self.server.asked.append((self.path, first))
    content = self.server.files.get(self.path)
    if content is None:
      self.send_error(404)
      return
    if first is None or not self.server.ranges:
      first = 0
      self.send_response(200)
    elif first < len(content):
      self.send_response(206)
      self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
    else:
      self.send_response(416)
      self.send_header("Content-Range", f"bytes */{len(content)}")
      self.send_header("Content-Length", "0")
      self.end_headers()
      return
    self.send_header("Content-Length", str(len(content) - first))
    self.end_headers()
    last = first + self.server.cuts.pop(0) if self.server.cuts else len(content)
    self.wfile.write(content[first:last])

  def log_message(self, *_: object) -> None:
    pass


@contextlib.contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[Server]:
  """Serves files in a thread of this process."""
  with Server(files) as server:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
      yield server
    finally:
      server.shutdown()
      thread.join()
