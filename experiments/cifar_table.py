"""The paper's CIFAR and SVHN error tables: the command in dn_jax/commands/cifar_table.py; --help lists its flags."""

from dn_jax.commands import cifar_table

if __name__ == "__main__":
  cifar_table.main()
