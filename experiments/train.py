"""Train one network on one data set: the command in dn_jax/commands/train.py; --help lists its flags."""

from dn_jax.commands import train

if __name__ == "__main__":
  train.main()
