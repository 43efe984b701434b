"""Stands in for W&B's server, on this machine: as much as a run needs, and a run that goes on."""

import contextlib
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any


class Server(http.server.ThreadingHTTPServer):
  """One run: its id, and the rows of its history that came."""

  def __init__(self) -> None:
    super().__init__(("127.0.0.1", 0), _Handler)
    self.run: str | None = None
    self.rows: list[dict[str, Any]] = []

  @property
  def address(self) -> str:
    return f"http://127.0.0.1:{self.server_port}"

  def handle_error(self, *_: object) -> None:
    """A client that has gone."""

  def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
    """Of GraphQL."""
    if "RunResumeStatus" in query:
      return {"model": {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}, "bucket": self._begun()}}
    if "UpsertBucket" in query:
      inserted, self.run = self.run is None, given["name"]
      project = {"id": "p", "name": "p", "entity": {"id": "e", "name": "e"}}
      bucket = {"id": "r", "name": self.run, "displayName": self.run, "config": "{}", "project": project}
      return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
    if "CreateRunFiles" in query:
      files = [{"name": name, "uploadUrl": f"{self.address}/{name}"} for name in given["files"]]
      return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
    return {"serverInfo": {"features": []}}

  def _begun(self) -> dict[str, Any] | None:
    """What a run that goes on hears of the one that began."""
    return self.run and {
      "name": self.run,
      "historyLineCount": len(self.rows),
      "historyTail": json.dumps([json.dumps(row) for row in self.rows[-1:]]),
      **{"eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]", "summaryMetrics": "{}", "config": "{}"},
      "wandbConfig": json.dumps({"t": {}}),
    }


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = "HTTP/1.1"
  server: Server

  def log_message(self, *_: object) -> None:
    pass

  def do_POST(self) -> None:
    body = self._body()
    if self.path.endswith("file_stream"):
      told = (body.get("files") or {}).get("wandb-history.jsonl", {"content": []})
      self.server.rows += map(json.loads, told["content"])
      self._say({})
    else:
      self._say({"data": self.server.answer(body.get("query", ""), body.get("variables") or {})})

  def do_PUT(self) -> None:
    self.rfile.read(int(self.headers["Content-Length"]))
    self._say({})

  def _body(self) -> dict[str, Any]:
    content = self.rfile.read(int(self.headers["Content-Length"]))
    return json.loads(gzip.decompress(content) if self.headers["Content-Encoding"] == "gzip" else content)

  def _say(self, answer: dict[str, Any]) -> None:
    content = json.dumps(answer).encode()
    self.send_response(200)
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    self.wfile.write(content)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
  with Server() as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
      yield server
    finally:
      server.shutdown()
      thread.join()
