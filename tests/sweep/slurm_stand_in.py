"""Stands in for SLURM: its commands, for `PATH`, that run each job as a process of this machine.

In the folder of jobs, NUMBER.sh is what was submitted, NUMBER.task the process of a job that began. There the file
`most` has the number of jobs that sbatch takes, and `hold` that of the first which stays in the queue. Without the file
`accounting` sacct fails. NUMBER.state, where it is, is what sacct says of a job.
"""

import os
import pathlib

import pytest

_SBATCH = """#!/bin/sh
number=$(($(ls $SLURM_STAND_IN/*.sh 2> /dev/null | wc -l) + 1))
if [ $number -gt $(cat $SLURM_STAND_IN/most) ]; then
  echo "sbatch: error: Batch job submission failed: not so many" >&2
  exit 1
fi
cp $1 $SLURM_STAND_IN/$number.sh
[ $number -ge $(cat $SLURM_STAND_IN/hold) ] || SLURM_JOB_ID=$number setsid sh $1 > /dev/null 2>&1 &
echo Submitted batch job $number
"""
# Its options take no value of their own but --output.
_SRUN = """#!/bin/sh
echo $$ > $SLURM_STAND_IN/$SLURM_JOB_ID.task
while case $1 in -*) true;; *) false;; esac; do [ $1 = --output ] && shift; shift; done
exec "$@"
"""
_SACCT = """#!/bin/sh
if [ ! -e $SLURM_STAND_IN/accounting ]; then
  echo "Slurm accounting storage is disabled" >&2
  exit 1
fi
echo "JobID|State|NodeList"
for script in $SLURM_STAND_IN/*.sh; do
  job=${script%.sh}
  state=PENDING
  [ -e $job.task ] && if kill -0 $(cat $job.task) 2> /dev/null; then state=RUNNING; else state=COMPLETED; fi
  [ -e $job.state ] && state=$(cat $job.state)
  echo "${job##*/}|$state|node1"
done
"""
_SCANCEL = """#!/bin/sh
echo "$@" >> $SLURM_STAND_IN/scancel
how=$1; shift
for number in "$@"; do
  job=$SLURM_STAND_IN/$number
  case $how in
    --state=PENDING) [ -e $job.task ] || echo CANCELLED > $job.state;;
    --signal=*) [ -e $job.task ] && kill -${how#*=} $(cat $job.task);;
  esac
done
true
"""


def install(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
  """Makes the commands, for this process and those of the jobs; returns the folder of jobs."""
  jobs = folder / "jobs"
  (folder / "bin").mkdir(parents=True)
  jobs.mkdir()
  for name in ("most", "hold", "accounting"):
    (jobs / name).write_text("99")
  for name, script in (("sbatch", _SBATCH), ("srun", _SRUN), ("sacct", _SACCT), ("scancel", _SCANCEL)):
    path = folder / "bin" / name
    path.write_text(script)
    path.chmod(0o755)
  monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
  monkeypatch.setenv("SLURM_STAND_IN", str(jobs))
  return jobs
