"""A figure for a paper: the command in dn_jax/commands/picture.py; --help lists its flags."""

from dn_jax.commands import picture

if __name__ == "__main__":
  picture.main()
