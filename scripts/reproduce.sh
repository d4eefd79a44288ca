#!/usr/bin/env bash
# Every learning run under results/, each skipped where its folder holds a finished one; about half an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
train() {
  local out=results/$1
  shift
  [ -e "$out/summary.json" ] || "$python" scripts/train.py "$@" --seeds 8 --out "$out"
}
train pendulum-mbpo mbpo --env Pendulum-v1
train continuous-cartpole-mbpo mbpo --env ContinuousCartPole
train pendulum-sac sac --env Pendulum-v1 --steps 10000
train pendulum-sac-20 sac --env Pendulum-v1 --steps 3000 --loop.updates 20
train cartpole-mbpo mbpo --env CartPole-v1
train cartpole-sac sac --env CartPole-v1
train continuous-cartpole-sac sac --env ContinuousCartPole --steps 10000
train cartpole-swingup-mbpo mbpo --env CartPoleSwingUp
train cartpole-swingup-sac sac --env CartPoleSwingUp
