"""Many runs from flags with several values: the command in dn_jax/commands/ablate.py; --help lists its flags."""

from dn_jax.commands import ablate

if __name__ == "__main__":
  ablate.main()
