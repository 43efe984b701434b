"""A stand-in for the Hugging Face hub on the loopback address: the requests that `huggingface_hub` sends for models."""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import pathlib
import re
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

TOKEN = "hf_" + "secret" * 5


@dataclasses.dataclass
class Repository:
  """Of models. commits: its files by commit; branches: commits by name."""

  private: bool = False
  gated: bool = False
  commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
  branches: dict[str, str] = dataclasses.field(default_factory=dict)

  def commit(self, branch: str = "main", **files: bytes) -> str:
    """Adds files to a branch; a name's two underscores stand for its dot."""
    return self.add({name.replace("__", "."): content for name, content in files.items()}, branch)

  def add(self, files: dict[str, bytes], branch: str = "main") -> str:
    name = f"{len(self.commits) + 1:040x}"
    self.commits[name] = self.commits.get(self.branches.get(branch, ""), {}) | files
    self.branches[branch] = name
    return name


class Server(http.server.ThreadingHTTPServer):
  """repositories by name.

  asked:     method and path of each request
  mute:      whether it leaves requests unanswered; mute_files: those for files
  status:    that it answers with, whatever is asked
  says:      in a header, what the library would print
  wrong_sum: whether it names another SHA-256 than a file has
  sent:      content of the files that were uploaded, by SHA-256
  """

  daemon_threads = True

  def __init__(self) -> None:
    super().__init__(("127.0.0.1", 0), _Handler)
    self.forget()

  def forget(self) -> None:
    self.repositories: dict[str, Repository] = {}
    self.asked: list[str] = []
    self.created: list[dict[str, Any]] = []
    self.sent: dict[str, bytes] = {}
    self.mute, self.mute_files, self.wrong_sum, self.status = False, False, False, 0
    self.go_on = threading.Event()

  @property
  def address(self) -> str:
    return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
  server: Server
  protocol_version = "HTTP/1.1"

  def _answer(self, status: int, content: bytes | dict = b"", **headers: str) -> None:
    content = json.dumps(content).encode() if isinstance(content, dict) else content
    self.send_response(status)
    # The library logs this to stderr.
    self.send_header("X-HF-Warning", f"{len(self.server.asked)}; a warning of the hub's")
    for name, value in {"Content-Length": str(len(content)), **headers}.items():
      self.send_header(name.replace("_", "-"), value)
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)

  def _handle(self) -> None:
    server, path = self.server, urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
    if path == "/api/agent-harnesses":
      return self._answer(404)
    server.asked.append(f"{self.command} {path}")
    if server.mute or (server.mute_files and "/resolve/" in path):
      server.go_on.wait(60)
      self.close_connection = True
      return None
    if server.status:
      return self._answer(server.status, {"error": f"who is {self.headers.get('Authorization')}?"})
    if path == "/api/repos/create":
      return self._create(json.loads(body))
    if path == "/api/validate-yaml":
      return self._answer(200, {"errors": [], "warnings": [{"message": "a warning of the hub's"}]})
    if found := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
      assert hashlib.sha256(body).hexdigest() == found[1]
      server.sent[found[1]] = body
      return self._answer(200)
    if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
      objects = [
        each | {"actions": {"upload": {"href": f"{server.address}/lfs/{each['oid']}"}}}
        for each in json.loads(body)["objects"]
      ]
      return self._answer(200, {"objects": objects, "transfer": "basic"})
    found = re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|preupload|commit)/(.+))?", path)
    if found is None:
      found = re.fullmatch(r"/([^/]+/[^/]+)/(resolve)/([^/]+)/(.+)", path)
    if found is None:
      return self._answer(404)
    name, what, revision, *file = found.groups()
    repository = self._of(name)
    if repository is None:
      return None
    revision = revision or "main"
    commit = repository.branches.get(revision, revision)
    if commit not in repository.commits and (repository.commits or what == "resolve"):
      return self._answer(404, X_Error_Code="RevisionNotFound")
    if what == "preupload":
      return self._preupload(json.loads(body))
    if what == "commit":
      return self._commit(name, repository, revision, body)
    files = repository.commits.get(commit, {})
    return self._file(files, commit, file[0]) if file else self._info(name, repository, commit, files)

  do_GET = do_HEAD = do_POST = do_PUT = _handle

  def _of(self, name: str) -> Repository | None:
    """The repository, where who asks may see it; else the answer is given."""
    token = self.headers.get("Authorization")
    repository = self.server.repositories.get(name)
    if repository is None or (repository.private and token != f"Bearer {TOKEN}"):
      self._answer(401, {"error": f"Invalid username or password, {token}"}, X_Error_Code="RepoNotFound")
      return None
    if repository.gated:
      self._answer(403, X_Error_Code="GatedRepo")
      return None
    return repository

  def _info(self, name: str, repository: Repository, commit: str, files: dict[str, bytes]) -> None:
    siblings = [
      {
        "rfilename": file,
        "size": len(content),
        "blobId": hashlib.sha1(content).hexdigest(),
        "lfs": {"sha256": self._sum(content), "size": len(content), "pointerSize": 134},
      }
      for file, content in files.items()
    ]
    self._answer(
      200, {"id": name, "modelId": name, "sha": commit, "private": repository.private, "siblings": siblings, "tags": []}
    )

  def _sum(self, content: bytes) -> str:
    return hashlib.sha256(content + b"!" * self.server.wrong_sum).hexdigest()

  def _file(self, files: dict[str, bytes], commit: str, file: str) -> None:
    if file not in files:
      return self._answer(404, X_Error_Code="EntryNotFound")
    return self._answer(200, files[file], ETag=f'"{self._sum(files[file])}"', X_Repo_Commit=commit)

  def _create(self, asked: dict[str, Any]) -> None:
    if self.headers.get("Authorization") != f"Bearer {TOKEN}":
      return self._answer(401, {"error": "Invalid username or password."})
    name = f"{asked['organization']}/{asked['name']}"
    if name in self.server.repositories:
      return self._answer(409, {"error": "You already created this model repo"})
    self.server.created.append(asked)
    private = asked.get("visibility") == "private" or asked.get("private") is True
    self.server.repositories[name] = Repository(private)
    return self._answer(200, {"url": f"{self.server.address}/{name}"})

  def _preupload(self, asked: dict[str, Any]) -> None:
    mode = lambda path: "lfs" if path.endswith(".safetensors") else "regular"
    files = [{"path": each["path"], "uploadMode": mode(each["path"]), "shouldIgnore": False} for each in asked["files"]]
    self._answer(200, {"files": files})

  def _commit(self, where: str, repository: Repository, branch: str, body: bytes) -> None:
    files = {}
    for line in map(json.loads, body.splitlines()):
      value = line["value"]
      if line["key"] == "file":
        files[value["path"]] = base64.b64decode(value["content"])
      elif line["key"] == "lfsFile":
        files[value["path"]] = self.server.sent[value["oid"]]
    name = repository.add(files, branch)
    self._answer(200, {"commitUrl": f"{self.server.address}/{where}/commit/{name}", "commitOid": name})

  def log_message(self, *_: object) -> None:
    pass


@contextlib.contextmanager
def serving() -> Iterator[Server]:
  """A hub, empty, in a thread of this process, which `huggingface_hub` then takes for its own."""
  with Server() as server, pytest.MonkeyPatch.context() as patch:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
      patch.delenv(name, raising=False)
    # The library reads these when it is imported.
    for name, value in {"HF_ENDPOINT": server.address, "HF_HUB_DISABLE_XET": "1", "HF_HOME": "/nowhere"}.items():
      patch.setenv(name, value)
    _unimport()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
      yield server
    finally:
      server.go_on.set()
      server.shutdown()
      thread.join()
      _unimport()


def _unimport() -> None:
  for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
    del sys.modules[name]


def fresh(server: Server, home: pathlib.Path, patch: pytest.MonkeyPatch) -> Server:
  """The server without repositories, and a cache of its own."""
  from huggingface_hub import constants

  server.forget()
  patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
  patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
  patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
  return server
