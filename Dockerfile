# dn_jax on NVIDIA GPUs. This file has not been built yet: it was written where no Docker daemon ran.
#
#   docker build -t dn_jax .
#   docker run --gpus all --shm-size 8g -v ~/data:/data:ro -v ~/runs:/runs dn_jax \
#     train --data.name cifar10 --data.dir /data --data.augment --model.name densenet-bc-100-12 --out /runs/one
#
# The host has a driver for CUDA 13 (580 or newer) and NVIDIA's container toolkit. ~/runs is the user's with id 1000.

# A wheel has the commit that it was built from, so the image needs no git.
FROM python:3.12-slim AS wheel
RUN apt-get update && apt-get install --yes --no-install-recommends git
RUN pip install --no-cache-dir build
COPY . /source
RUN python -m build --wheel --outdir /dist /source

FROM python:3.12-slim
# CUDA comes with JAX's own packages. They are large, so a change of the source does not install them again.
COPY requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir --requirement /tmp/requirements.txt "jax[cuda13]"
COPY --from=wheel /dist /tmp/dist
RUN pip install --no-cache-dir --no-deps /tmp/dist/*.whl
RUN useradd --create-home --uid 1000 dn_jax
USER dn_jax
WORKDIR /home/dn_jax
ENTRYPOINT ["dn-jax"]
CMD ["--help"]
