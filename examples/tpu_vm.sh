#!/bin/bash
# One training on all hosts of a TPU pod slice: makes the slice unless it is there, installs, and trains.
#
#   SOURCE=https://... BUCKET=my-bucket examples/tpu_vm.sh     # from a machine with gcloud; again: the run continues
#
# The data set lies in gs://BUCKET/data (see docs/pictures.md), the run goes to gs://BUCKET/runs. A slice costs money
# until it is deleted: gcloud compute tpus tpu-vm delete NAME --zone=ZONE
# It has not been run on a TPU yet; its flags are tested.
set -euo pipefail

SOURCE=${SOURCE:?the address that git clones the repository from}
BUCKET=${BUCKET:?the name of a bucket, near the zone}
NAME=${NAME:-dn-jax}
ZONE=${ZONE:-us-west4-a}
TYPE=${TYPE:-v5litepod-16}
IMAGE=${IMAGE:-v2-alpha-tpuv5-lite}
OUT=${OUT:-gs://$BUCKET/runs/densenet-121}

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="set -e; $1"
}

if ! gcloud compute tpus tpu-vm describe "$NAME" --zone="$ZONE" > /dev/null 2>&1; then
  gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" --version="$IMAGE"
fi

# The image's Python is too old; uv brings its own.
on_all_hosts "
  [ -d dn_jax ] || git clone '$SOURCE' dn_jax
  cd dn_jax
  [ -d .venv ] || { python3 -m pip install --quiet --user uv; python3 -m uv venv --python 3.12; }
  python3 -m uv pip install --quiet --constraint requirements.txt --editable '.[tpu,gcs]'"

# A batch norm for each of the 16 chips.
on_all_hosts "
  cd dn_jax
  .venv/bin/python experiments/train.py --distributed.auto \
    --data.name imagenet2012 --data.dir 'gs://$BUCKET/data' --data.augment --out '$OUT' \
    --model.name densenet-121 --model.dtype bfloat16 \
    --batch-size 2048 --statistics-groups 16 \
    --optimizer.rate-batch 256 --optimizer.warmup-epochs 5"
