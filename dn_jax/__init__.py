"""DenseNet in JAX and Flax: dense connectivity, its memory and its published protocol."""

__version__ = "0.1.0"
