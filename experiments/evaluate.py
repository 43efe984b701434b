"""Errors of a trained network: the command in dn_jax/commands/evaluate.py; --help lists its flags."""

from dn_jax.commands import evaluate

if __name__ == "__main__":
  evaluate.main()
