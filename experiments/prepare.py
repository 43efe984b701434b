"""Download a data set and prepare it: the command in dn_jax/commands/prepare.py; --help lists its flags."""

from dn_jax.commands import prepare

if __name__ == "__main__":
  prepare.main()
