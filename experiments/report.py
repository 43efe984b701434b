"""Tables and figures of a folder of runs: the command in dn_jax/commands/report.py; --help lists its flags."""

from dn_jax.commands import report

if __name__ == "__main__":
  report.main()
