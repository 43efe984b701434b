"""Reads YAML that says no more than JSON can: mappings with distinct keys, lists, texts, numbers, true, false, null.

PyYAML takes 1e-05 for a text, 010 for 8, 1:30 for 90 and `no` for false. Here the first is a number and the others are
texts, as in YAML 1.2's JSON schema.
"""

import re
import typing
from typing import Any

import yaml

_PLAIN = {
  "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
  "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
  "int": (r"[-+]?(0|[1-9][0-9]{0,18})", "-+0123456789"),
  "float": (r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", "-+.0123456789"),
}


def read(text: str) -> Any:
  """The one document of a text.

  Raises:
    ValueError: it is no YAML, or says more than JSON can; one line names the line.
    RecursionError: lists or mappings within too many others.
  """
  try:
    return yaml.load(text, _Loader)
  except yaml.MarkedYAMLError as error:
    mark = error.problem_mark or error.context_mark
    raise ValueError(f"line {mark.line + 1}: {error.problem or error.context}") from None
  except yaml.reader.ReaderError as error:
    raise ValueError(error.reason) from None


class _Loader(yaml.SafeLoader):
  yaml_implicit_resolvers: typing.ClassVar[dict[str, list]] = {}

  def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
    """Refuses references, of which a short text can make a huge one, and types of YAML's or Python's."""
    event = self.peek_event()
    if event.anchor is not None or getattr(event, "tag", None) is not None:
      raise yaml.composer.ComposerError(None, None, "neither & nor * nor ! is read; write it out", event.start_mark)
    return super().compose_node(parent, index)

  def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
    """Refuses a key that stands there twice, of which PyYAML takes the last."""
    found = set()
    for key, _ in node.value:
      if not isinstance(key, yaml.ScalarNode) or key.value in found:
        wrong = f"{key.value} is there twice" if isinstance(key, yaml.ScalarNode) else "a list or mapping as a name"
        raise yaml.constructor.ConstructorError(None, None, wrong, key.start_mark)
      found.add(key.value)
    return super().construct_mapping(node, deep)


for _kind, (_pattern, _first) in _PLAIN.items():
  _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(rf"({_pattern})\Z"), _first)
