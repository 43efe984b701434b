#!/bin/bash
# One training on all GPUs of some nodes, one process per GPU; they find each other. Start it in the repository:
#
#   sbatch examples/slurm.sh                             # or with other values: sbatch --nodes=1 examples/slurm.sh
#   DATA=/scratch/tfds OUT=/scratch/runs/two sbatch examples/slurm.sh
#
# Two minutes before its time is up the run saves, and the job goes into the queue again. The same job, or a new one,
# continues the run. For many small runs, a job each, see `python experiments/ablate.py --help`, --cluster slurm.
#SBATCH --job-name=dn_jax
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# Folders that all nodes see. The repository's .venv has `pip install -e '.[cuda]'`.
REPOSITORY=${REPOSITORY:-$SLURM_SUBMIT_DIR}
DATA=${DATA:-/shared/tfds}
OUT=${OUT:-/shared/runs/densenet-121}

cd "$REPOSITORY"
code=0
srun .venv/bin/python experiments/train.py \
  --data.name imagenet2012 --data.dir "$DATA" --data.augment --out "$OUT" \
  --model.name densenet-121 --model.dtype bfloat16 \
  --batch-size 1024 --statistics-groups "$SLURM_NTASKS" \
  --optimizer.rate-batch 256 --optimizer.warmup-epochs 5 || code=$?

if [ "$code" = 75 ]; then  # Interrupted and saved.
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
