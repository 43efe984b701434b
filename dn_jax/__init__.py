"""DenseNet in JAX and Flax: dense connectivity, its memory and its published protocol."""

import time as _time

# Nanoseconds since 1970: a file of the package that changes later is not the one that this process has loaded.
LOADED = _time.time_ns()
__version__ = "0.1.0"
