"""Files of the Hugging Face hub, from a stand-in on the loopback address."""

import hashlib
import logging
import pathlib
import sys
import types

import pytest
from hub_server import TOKEN, Repository

from dn_jax.errors import ConfigurationError
from dn_jax.system import hub

SUFFIXES = (".safetensors", ".pth")


def fetched(text, say=lambda _: None):
  return hub.fetch("weights", hub.address_of("weights", pathlib.Path(text)), SUFFIXES, say)


def refused(text):
  """The one line that a fetch ends with."""
  with pytest.raises(ConfigurationError) as caught:
    fetched(text, pytest.fail)
  assert "\n" not in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize(
  ("text", "parts"),
  [
    ("hf://owner/name", ("owner/name", None, None)),
    ("hf://owner/name/sub/model.pth", ("owner/name", None, "sub/model.pth")),
    ("hf://o-1/n.2_x@v1.0/m.safetensors", ("o-1/n.2_x", "v1.0", "m.safetensors")),
    ("hf://owner/name@refs/pr/3/m.pth", ("owner/name", "refs/pr/3", "m.pth")),
    ("hf://owner/name@a%2Fb", ("owner/name", "a/b", None)),
  ],
)
def test_an_address_is_read_and_written_as_a_person_gives_it(text, parts):
  address = hub.address_of("weights", pathlib.Path(text))
  assert (address.repository, address.revision, address.file) == parts
  assert str(address) == str(address.path) == text


@pytest.mark.parametrize(
  "text",
  [
    "hf://owner",
    "hf://datasets/owner/name",
    "hf://owner/na me",
    "hf://o/n/../m.pth",
    "hf://o/n@/m.pth",
    "hf://a--b/c",
    "hf://a/..b",
  ],
)
def test_what_is_no_address_is_refused(text):
  with pytest.raises(ConfigurationError, match=r"^--to hf://.*OWNER/NAME\[@REVISION\]\[/FILE\]"):
    hub.address_of("to", pathlib.Path(text))


def test_the_only_safetensors_is_fetched_once_and_what_and_whence_are_said_before(the_hub, capfd):
  the_hub.repositories["some/net"] = repository = Repository()
  content = bytes(range(256)) * 8192
  commit = repository.commit(model__safetensors=content, model__pth=b"other", README__md=b"#")
  lines = []

  def say(line):
    lines.append(line)
    assert not any(each.startswith("GET") and "resolve" in each for each in the_hub.asked)

  found = fetched("hf://some/net", say)
  assert found.path.read_bytes() == content
  assert found.digest == hashlib.sha256(content).hexdigest()
  assert str(found.address) == f"hf://some/net@{commit}/model.safetensors"
  (line,) = lines
  assert line.startswith(f"fetching hf://some/net@{commit}/model.safetensors (2.0 MiB) from 127.0.0.1:")
  asked = len(the_hub.asked)
  assert fetched(str(found.address), pytest.fail) == found  # Out of the cache.
  assert len(the_hub.asked) == asked
  assert capfd.readouterr() == ("", "")  # The hub's warnings and the library's bars.
  assert logging.root.manager.disable == logging.NOTSET


def test_a_file_of_another_kind_is_taken_where_it_is_the_only_one(the_hub):
  the_hub.repositories["some/net"] = repository = Repository()
  repository.add({"README.md": b"#", "sub/Model.PTH": b"weights"})
  assert fetched("hf://some/net").address.file == "sub/Model.PTH"


def test_several_files_are_refused_with_their_names_unless_one_is_named(the_hub):
  the_hub.repositories["some/net"] = repository = Repository()
  repository.commit(a__safetensors=b"a", b__safetensors=b"b", c__pth=b"c")
  line = refused("hf://some/net")
  assert line == "--weights hf://some/net: has several files of weights, a.safetensors, b.safetensors; name one"
  assert fetched("hf://some/net/c.pth").path.read_bytes() == b"c"


def test_a_branch_that_moves_on_leaves_its_old_commit_in_the_cache_and_offline_too(the_hub, monkeypatch):
  from huggingface_hub import constants

  the_hub.repositories["some/net"] = repository = Repository()
  repository.commit(m__safetensors=b"old")
  old = fetched("hf://some/net")
  repository.commit(m__safetensors=b"new")
  assert fetched("hf://some/net@main").path.read_bytes() == b"new"
  asked = len(the_hub.asked)
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  assert fetched(str(old.address)).path.read_bytes() == b"old"
  assert "not in the cache" in refused("hf://some/other")
  assert "not in the cache" in refused("hf://some/net/other.safetensors")
  assert len(the_hub.asked) == asked


def test_offline_a_branch_is_what_it_was_when_it_was_last_asked_for(the_hub, monkeypatch):
  from huggingface_hub import constants, hf_hub_download

  the_hub.repositories["some/net"] = repository = Repository()
  commit = repository.commit(m__safetensors=b"old")
  hf_hub_download("some/net", "m.safetensors")  # As other programs fill the cache.
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  found = fetched("hf://some/net")
  assert (found.address.revision, found.path.read_bytes()) == (commit, b"old")


@pytest.mark.parametrize(
  ("text", "words"),
  [
    ("hf://no/such", "no such repository, or it needs a token"),
    ("hf://some/private", "no such repository, or it needs a token"),
    ("hf://some/gated", "ask on its page"),
    ("hf://some/net@v2", "no such revision"),
    ("hf://some/net/n.safetensors", "there is no such file; did you mean m.safetensors?"),
    ("hf://some/bare", r"has no file of weights (.safetensors, .pth)"),
  ],
)
@pytest.mark.parametrize("token", [None, "hf_wrong", "hf_illegal\nheader"])
def test_what_is_not_there_is_one_line_without_the_token(the_hub, text, words, token, monkeypatch, capfd):
  the_hub.repositories |= {"some/net": Repository(), "some/private": Repository(private=True)}
  the_hub.repositories |= {"some/gated": Repository(gated=True), "some/bare": Repository()}
  for repository in the_hub.repositories.values():
    repository.commit(m__safetensors=b"m")
  the_hub.repositories["some/bare"].commits = {"0" * 40: {"README.md": b"#"}}
  the_hub.repositories["some/bare"].branches = {"main": "0" * 40}
  if token:
    monkeypatch.setenv("HF_TOKEN", token)
  line = refused(text)
  assert line.startswith(f"--weights {text}: ")
  assert words in line or token == "hf_illegal\nheader"
  assert "hf_" not in line
  assert capfd.readouterr() == ("", "")


def test_a_private_repository_is_read_with_a_token(the_hub, monkeypatch):
  the_hub.repositories["some/net"] = repository = Repository(private=True)
  repository.commit(m__safetensors=b"m")
  monkeypatch.setenv("HF_TOKEN", TOKEN)
  assert fetched("hf://some/net").path.read_bytes() == b"m"


def test_a_hub_that_does_not_answer_or_fails_is_one_line(the_hub, monkeypatch):
  from huggingface_hub import constants

  monkeypatch.setattr(hub, "PATIENCE", 0.2)
  monkeypatch.setenv("HF_TOKEN", TOKEN)
  the_hub.status = 503
  assert refused("hf://some/net").endswith("answers 503")
  the_hub.status, the_hub.mute = 0, True
  assert "does not answer; HF_HUB_OFFLINE=1" in refused("hf://some/net")
  the_hub.mute, the_hub.mute_files = False, True
  the_hub.repositories["some/net"] = Repository()
  the_hub.repositories["some/net"].commit(m__safetensors=b"m")
  assert "does not answer; HF_HUB_OFFLINE=1" in refused("hf://some/net")
  # A port where nobody listens.
  monkeypatch.setattr(constants, "ENDPOINT", "http://user:hf_password@127.0.0.1:9")
  line = refused("hf://some/net")
  assert "127.0.0.1:9 cannot be reached" in line
  assert "hf_" not in line


def test_a_file_whose_sum_is_not_the_hubs_is_deleted(the_hub, tmp_path):
  the_hub.repositories["some/net"] = repository = Repository()
  repository.commit(m__safetensors=b"m")
  the_hub.wrong_sum = True
  with pytest.raises(ConfigurationError, match=r"what came has the SHA-256 .*, the hub says .*; deleted"):
    fetched("hf://some/net")
  the_hub.wrong_sum = False
  assert fetched("hf://some/net").path.read_bytes() == b"m"


def test_without_its_extra_an_address_is_refused(monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  assert refused("hf://some/net") == "--weights hf://some/net: needs an extra: pip install -e '.[hub]'"


def test_our_bars_take_the_place_of_the_librarys_also_where_files_come_in_pieces(the_hub, capsys, monkeypatch):
  from huggingface_hub.utils import _xet_progress_reporting
  from rich import progress

  monkeypatch.setenv("FORCE_COLOR", "1")  # As a terminal to rich.
  drawn = []
  update = progress.Progress.update
  monkeypatch.setattr(progress.Progress, "update", lambda *given, **how: (drawn.append(how), update(*given, **how)))
  the_hub.repositories["some/net"] = repository = Repository()
  repository.commit(m__safetensors=bytes(2**20))
  fetched("hf://some/net")
  assert {"completed": 2**20, "total": 2**20} in drawn
  assert "m.safetensors" in capsys.readouterr().err
  drawn.clear()
  with hub._shown_progress() as bar:
    reporter = _xet_progress_reporting.XetDownloadProgressReporter(
      reconstruction_desc="a: file", transfer_desc="a: bytes", total=100, log_level=logging.WARNING, tqdm_class=bar
    )
    with reporter as told:
      report = types.SimpleNamespace(
        total_bytes=100,
        total_bytes_completed=100,
        total_transfer_bytes_completed=60,
        total_bytes_completion_rate=1.0,
        total_transfer_bytes_completion_rate=1.0,
      )
      told.update_progress(report)
      told.reconstruction_bar.refresh()
  assert {"completed": 100, "total": 100} in drawn


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:99999", "http://127.0.0.1:abc", "http://[::1", "/nowhere"])
def test_an_endpoint_that_is_no_address_is_one_line(the_hub, endpoint, monkeypatch):
  monkeypatch.setenv("HF_ENDPOINT", endpoint)
  line = refused("hf://some/net")
  assert line == "--weights hf://some/net: HF_ENDPOINT is no address, such as https://huggingface.co"


def test_a_file_that_is_none_of_weights_is_refused_before_the_hub_is_asked(the_hub):
  the_hub.repositories["some/net"] = repository = Repository()
  repository.add({"config.json": b"{}", "m.pth": b"weights"})
  line = refused("hf://some/net/config.json")
  assert line == "--weights hf://some/net/config.json: weights are read from files that end in .safetensors, .pth"
  assert the_hub.asked == []
