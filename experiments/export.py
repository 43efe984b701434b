"""A trained network as one file: the command in dn_jax/commands/export.py; --help lists its flags."""

from dn_jax.commands import export

if __name__ == "__main__":
  export.main()
