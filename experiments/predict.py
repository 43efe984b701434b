"""Classifies images by a trained network: the command in dn_jax/commands/predict.py; --help lists its flags."""

from dn_jax.commands import predict

if __name__ == "__main__":
  predict.main()
