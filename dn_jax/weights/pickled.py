"""Reads PyTorch's own files of weights."""

import pathlib
from collections.abc import Callable

from dn_jax.config.weights_file import WeightsError
from dn_jax.weights.table import State


def read(path: pathlib.Path, say: Callable[[str], None]) -> State:
  try:
    import torch
  except ImportError:
    raise WeightsError(f"{path}: reading .pth files needs PyTorch; or convert it to .safetensors") from None
  try:
    state = torch.load(path, map_location="cpu", weights_only=True)
  except Exception:  # Pickle errors of many kinds; nothing in the file has run.
    raise WeightsError(
      f"{path}: cannot be read as a state dict; it is damaged, or a pickle of more than tensors, which is not run"
    ) from None
  if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
    state = state["state_dict"]
  if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
    raise WeightsError(f"{path}: is not a state dict of tensors")
  result: State = {}
  for name, tensor in state.items():
    try:
      # numpy has no bfloat16.
      result[name] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
    except (RuntimeError, TypeError) as error:  # Sparse, quantised, or of a type that numpy lacks.
      raise WeightsError(f"{path}: {name} is {tensor.dtype}, which cannot be an array ({error})") from None
  return result
