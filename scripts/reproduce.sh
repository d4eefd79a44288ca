#!/usr/bin/env bash
# Makes a table of results anew: scripts/reproduce.sh [TABLE], one of
#   learning    every learning run of the library's own tasks, with its pictures (the default); hours on two cores
#   dm_control  TD-MPC2, DreamerV3 and SAC at 100,000 frames, beside their authors' scores
#   mujoco      SAC, REDQ and MBPO on Gymnasium's MuJoCo tasks
#   libraries   PPO on Craftax-Classic and on a task of MuJoCo Playground (extras craftax and playground)
#   general     agents with their general settings on tasks without a preset, beside those of before
#   pendulum    agents on Gymnasium's Pendulum in the host loop, beside gymnax's in the compiled one
#   troubles    what goes wrong with models: tables and pictures of results/troubles, but for the runs that `cost` reads
#   offline     data sets of the pendulum, made by SAC, and what the offline agents learn from each
# A run that is finished is skipped, and one that was interrupted goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
seeds=8
train() {
  local out=results/$1 resume=
  shift
  [ -e "$out/summary.json" ] && [ ! -d "$out/checkpoints" ] && return
  [ ! -d "$out/checkpoints" ] || resume=--resume
  "$python" scripts/train.py "$@" --seeds "$seeds" --out "$out" $resume
}

# What SAC's and DQN's general settings were when some runs on record were made.
plain_sac="--agent.no-normalize-obs --agent.no-scale-rewards --agent.alpha 1"
plain_units="--agent.no-normalize-obs --agent.no-scale-rewards"
plain_ppo=$plain_units
plain_dqn="--agent.no-normalize-obs --agent.no-scale-rewards --agent.lr 1e-3 --agent.tau 5e-3 --agent.batch 64
  --agent.epsilon 0.1 --agent.decay-updates 2000 --agent.huber 1"

# What DreamerV3 had for CartPole-v1 alone.
pole_v3="--agent.no-normalize-obs --agent.no-calibrated --agent.decoder-scale 10 --agent.entropy 1e-3
  --agent.net.bins 41 --agent.net.bound 6"

dm_control() {
  local agent seed task tasks="pendulum-swingup cartpole-swingup reacher-easy walker-walk ball_in_cup-catch finger-spin
    cheetah-run cartpole-swingup_sparse walker-run hopper-stand acrobot-swingup reacher-hard"
  seeds=3
  for agent in tdmpc2 sac; do
    for task in $tasks; do
      name=${task/ball_in_/}
      train "dm_control/$agent-${name/_/-}" "$agent" --env "dm_control:$task-x2" --steps 50000 --loop.cycles 10
    done
  done
  # Half an hour of a core for each: a run for each seed.
  seeds=1
  for seed in 0 1 2; do
    for task in $tasks; do
      name=${task/ball_in_/}
      train "dm_control/dreamer_v3-${name/_/-}-seed$seed" dreamer_v3 --env "dm_control:$task-x2" --steps 50000 \
        --loop.cycles 10 --seed "$seed"
    done
  done
  seeds=3
  for task in pendulum-swingup cartpole-swingup reacher-easy walker-walk finger-spin; do
    train "dm_control_unscaled/tdmpc2-$task" tdmpc2 --env "dm_control:$task-x2" --steps 25000 --loop.cycles 10 $plain_units
  done
  "$python" scripts/figures.py published
}

mujoco() {
  seeds=4
  train hopper-sac-general sac --env gymnasium:Hopper-v5 --steps 100000 --loop.cycles 50
  train hopper-sac sac --env gymnasium:Hopper-v5 --steps 100000 --loop.cycles 100 $plain_sac
  train inverted-pendulum-mbpo mbpo --env gymnasium:InvertedPendulum-v5 --steps 5000 \
    ${plain_sac//agent./agent.policy.}
  train hopper-redq sac --env gymnasium:Hopper-v5 --steps 125000 --loop.cycles 100 --loop.updates 20 \
    --agent.critics 10 --agent.drawn 2 --agent.policy-q mean
  train hopper-mbpo mbpo --env gymnasium:Hopper-v5 --steps 125000
}

libraries() {
  seeds=4
  train craftax-ppo ppo --env scripts/general_tasks.py:craftax_classic --steps 1000000 --loop.num-envs 64
  train playground-ppo ppo --env playground:CartpoleBalance --steps 500000
}

pendulum() {
  local kind
  seeds=3
  for kind in gymnasium:Pendulum-v1 Pendulum-v1; do
    local name=gymnax
    [ "$kind" = Pendulum-v1 ] || name=gymnasium
    train "pendulum-mbpo-$name" mbpo --env "$kind"
    train "pendulum-tdmpc2-$name" tdmpc2 --env "$kind"
    train "pendulum-ppo-$name" ppo --env "$kind" --steps 300000
    train "pendulum-dreamer-v3-$name" dreamer_v3 --env "$kind" --steps 6000
  done
}

general() {
  local task
  seeds=4
  for task in pendulum pendulum_centi pendulum_kilo; do
    train "general/sac-${task/_/-}" sac --env "scripts/general_tasks.py:$task" --steps 5000
    train "general/sac-${task/_/-}-before" sac --env "scripts/general_tasks.py:$task" --steps 5000 $plain_sac
    train "general/ppo-${task/_/-}" ppo --env "scripts/general_tasks.py:$task" --steps 300000
    train "general/ppo-${task/_/-}-before" ppo --env "scripts/general_tasks.py:$task" --steps 300000 $plain_ppo \
      --agent.epochs 4 --agent.entropy-weight 0.01
  done
  for task in cartpole cartpole_centi cartpole_kilo; do
    train "general/dqn-${task/_/-}" dqn --env "scripts/general_tasks.py:$task" --steps 20000
    train "general/dqn-${task/_/-}-before" dqn --env "scripts/general_tasks.py:$task" --steps 20000 $plain_dqn
    train "general/ppo-${task/_/-}" ppo --env "scripts/general_tasks.py:$task" --steps 150000
    train "general/ppo-${task/_/-}-before" ppo --env "scripts/general_tasks.py:$task" --steps 150000 $plain_ppo
  done
  train general/dqn-acrobot dqn --env Acrobot-v1 --steps 30000
  train general/dqn-acrobot-before dqn --env Acrobot-v1 --steps 30000 $plain_dqn
  train general/ppo-acrobot ppo --env Acrobot-v1 --steps 200000
  train general/ppo-acrobot-before ppo --env Acrobot-v1 --steps 200000 $plain_ppo
  for task in pendulum pendulum_kilo; do
    train "general/tdmpc2-${task/_/-}" tdmpc2 --env "scripts/general_tasks.py:$task" --steps 3000
    train "general/tdmpc2-${task/_/-}-before" tdmpc2 --env "scripts/general_tasks.py:$task" --steps 3000 $plain_units
  done
  train general/muzero-cartpole muzero --env scripts/general_tasks.py:cartpole --steps 12000
  train general/muzero-cartpole-before muzero --env scripts/general_tasks.py:cartpole --steps 12000 \
    --loop.updates 1 --agent.search.gumbel.least-range 1e-8
  seeds=8
  train general/dreamer_v3-cartpole dreamer_v3 --env scripts/general_tasks.py:cartpole --steps 15000
  seeds=2
  train general/dreamer_v3-cartpole-before dreamer_v3 --env scripts/general_tasks.py:cartpole --steps 7000 \
    --agent.no-normalize-obs --agent.no-calibrated --agent.free 1 --loop.updates 1
  "$python" scripts/figures.py general
}

offline() {
  local made=results/offline/data
  mkdir -p "$made"
  collect() { "$python" scripts/collect.py "$made/$1" --out "$made/$2.npz" --steps 5000 --sampled --envs 25 \
    "${@:3}"; }
  seeds=1
  train offline/data/sac-expert sac --env Pendulum-v1 --steps 10000 --seed 100
  train offline/data/sac-medium sac --env Pendulum-v1 --steps 3200 --seed 100
  collect sac-expert random --random 1
  collect sac-medium medium
  collect sac-expert mixed --random 0.5 --envs 12
  collect sac-expert expert
  "$python" scripts/figures.py offline --runs "$made"
}

troubles() { "$python" scripts/figures.py troubles; }

case ${1:-learning} in
  learning) ;;
  dm_control | mujoco | libraries | pendulum | general | offline | troubles) "$1"; exit ;;
  *) echo "TABLE must be learning, dm_control, mujoco, libraries, pendulum, general, offline or troubles, got $1" >&2; exit 2 ;;
esac
train pendulum-mbpo mbpo --env Pendulum-v1
train pendulum-sac sac --env Pendulum-v1 --steps 10000
train cartpole-mbpo mbpo --env CartPole-v1 --steps 4000
train cartpole-sac sac --env CartPole-v1
train pendulum-sac-30 sac --env Pendulum-v1 --steps 3000 --loop.updates 30
train continuous-cartpole-mbpo mbpo --env ContinuousCartPole
train continuous-cartpole-sac sac --env ContinuousCartPole --steps 10000
train cartpole-dqn dqn --env CartPole-v1
train cartpole-dreamer-v2 dreamer_v2 --env CartPole-v1-x2
train cartpole-dyna-5 dyna_dqn --env CartPole-v1 --agent.planning 5 --steps 5000
train cartpole-dyna-10 dyna_dqn --env CartPole-v1
train cartpole-dyna-50 dyna_dqn --env CartPole-v1 --agent.planning 50 --steps 2000
train catch-dqn dqn --env Catch-bsuite
train catch-dyna-5 dyna_dqn --env Catch-bsuite --agent.planning 5
train catch-dyna-10 dyna_dqn --env Catch-bsuite
train catch-dyna-50 dyna_dqn --env Catch-bsuite --agent.planning 50 --steps 2500
train cartpole-ppo ppo --env CartPole-v1
train catch-ppo ppo --env Catch-bsuite
train breakout-ppo ppo --env Breakout-MinAtar --steps 2000000
train breakout-ppo-8 ppo --env Breakout-MinAtar --steps 50000 --loop.num-envs 8
train pendulum-pets pets --env Pendulum-v1 --steps 1000
train continuous-cartpole-pets pets --env ContinuousCartPole
train swingup-pets pets --env CartPoleSwingUp --steps 1200
train swingup-pets-ts1 pets --env CartPoleSwingUp --agent.propagation ts1
train swingup-pets-mean pets --env CartPoleSwingUp --steps 1000 --agent.propagation mean --agent.planner.cem.particles 1
train swingup-pets-shooting pets --env CartPoleSwingUp --steps 1000 --agent.planner.kind shooting
train cartpole-muzero muzero --env CartPole-v1
train catch-muzero muzero --env Catch-bsuite
train cartpole-uct uct --env CartPole-v1 --steps 600
train dynamaze-q-learning q_learning --env DynaMaze
train dynamaze-dyna-q dyna_q --env DynaMaze
train dynamaze-dyna-q-plus dyna_q_plus --env DynaMaze
train dynamaze-sweeping sweeping --env DynaMaze
train frozenlake-uct uct --env FrozenLake-deterministic --steps 200
train tictactoe-muzero muzero --env TicTacToe
train tictactoe-alphazero alphazero --env TicTacToe
train pendulum-tdmpc2 tdmpc2 --env Pendulum-v1
train mountaincar-tdmpc2 tdmpc2 --env MountainCarContinuous-v0-x8
train continuous-cartpole-tdmpc2 tdmpc2 --env ContinuousCartPole-x2
train continuous-cartpole-sac-x2 sac --env ContinuousCartPole-x2 --steps 5000 --agent.hidden 64 64 --agent.lr 1e-3 $plain_sac
train mountaincar-sac sac --env MountainCarContinuous-v0-x8 --steps 2500 $plain_sac
seeds=4
small="muzero --env Catch-bsuite --steps 25000 --loop.capacity 20000"
train catch-muzero-puct $small --agent.search.kind puct
train catch-muzero-priorities $small --agent.priorities
train catch-muzero-reanalyse $small --agent.reanalyse 8
train cartpole-dreamer-v3 dreamer_v3 --env CartPole-v1 --steps 10000 $pole_v3
train cartpole-dreamer-v3-x2 dreamer_v3 --env CartPole-v1-x2
train cartpole-r2-dreamer dreamer_v3 --env CartPole-v1-x2 --agent.net.no-decoder
train cartpole-hidden-r2-dreamer dreamer_v3 --env CartPole-hidden-x2 --agent.net.no-decoder
train cartpole-hidden-dqn-x2 dqn --env CartPole-hidden-x2 --steps 6000 $plain_dqn
train mountaincar-dreamer-v3 dreamer_v3 --env MountainCarContinuous-v0-x8
train mountaincar-plan2explore dreamer_v3 --env MountainCarContinuous-v0-x8 --agent.explorer plan2explore
train pendulum-dreamer-v3 dreamer_v3 --env Pendulum-v1 --steps 6000
train pendulum-dreamer-v1 dreamer_v1 --env Pendulum-v1
train catch-dreamer-v3 dreamer_v3 --env Catch-bsuite
train swingup-tdmpc2 tdmpc2 --env CartPoleSwingUp
train swingup-sac sac --env CartPoleSwingUp --steps 20000 --agent.no-normalize-obs --agent.no-scale-rewards \
  --agent.hidden 64 64 --agent.target-entropy 0.55 --loop.warmup 200 --loop.hold 1 --loop.cycles 5
seeds=8
train swingup-sac-held sac --env CartPoleSwingUp
train swingup-mbpo mbpo --env CartPoleSwingUp
seeds=4
train pendulum-world-models world_models --env Pendulum-v1
train cartpole-hidden-world-models world_models --env CartPole-hidden
train cartpole-hidden-dreamer-v3 dreamer_v3 --env CartPole-hidden --steps 10000
train cartpole-pixels-dreamer-v3 dreamer_v3 --env CartPole-pixels --steps 2400
train cartpole-pixels-world-models world_models --env CartPole-pixels --steps 5000
train reach-ppo ppo --env Reach
train reach-seen-ppo ppo --env Reach-seen
train breakout-ppo-8-100k ppo --env Breakout-MinAtar --steps 100000 --loop.num-envs 8
train breakout-muzero muzero --env Breakout-MinAtar --steps 170000 --loop.updates 1 --agent.search.gumbel.least-range 1e-8
train breakout-dreamer-v3 dreamer_v3 --env Breakout-MinAtar
train memory-dreamer-v3 dreamer_v3 --env MemoryChain-bsuite
train cartpole-hidden-dqn dqn --env CartPole-hidden --steps 12000 $plain_dqn

plot() { "$python" scripts/plot.py curves "$@"; }
plot results/pendulum-{mbpo,sac,sac-30} --labels MBPO "SAC, 1 update per step" "SAC, 30 updates per step" \
  --threshold -200 --out results/pendulum.png
plot results/cartpole-{mbpo,sac} --labels MBPO "SAC, 1 update per step" --threshold 475 --out results/cartpole.png
plot results/continuous-cartpole-{mbpo,sac} --labels MBPO "SAC, 1 update per step" --threshold 199.5 \
  --out results/continuous-cartpole.png
plot results/cartpole-{dqn,dyna-5,dyna-10,dyna-50} --labels DQN "deep Dyna, n = 5" "deep Dyna, n = 10" \
  "deep Dyna, n = 50" --threshold 475 --log --out results/cartpole-dyna.png
plot results/catch-{dqn,dyna-5,dyna-10,dyna-50} --labels DQN "deep Dyna, n = 5" "deep Dyna, n = 10" \
  "deep Dyna, n = 50" --threshold 1 --log --out results/catch-dyna.png
plot results/swingup-pets{,-ts1,-mean,-shooting} --labels "CEM, TS-infinity" "CEM, TS1" "CEM, mean" \
  "random shooting, TS-infinity" --threshold 150 --out results/swingup-pets.png
plot results/breakout-{dreamer-v3,muzero,ppo-8} --labels DreamerV3 "MuZero, 16 simulations" "PPO, 8 environments" \
  --out results/breakout.png
imagine() {  # checkpoints are not kept beside the results
  [ ! -d "results/$1/checkpoints" ] || "$python" scripts/plot.py imagine "results/$1" "${@:2}"
}
imagine cartpole-dreamer-v3 --out results/figures/imagine-cartpole.png
imagine breakout-dreamer-v3 --horizon 20 --out results/figures/imagine-breakout.png
imagine pendulum-tdmpc2 --horizon 40 --out results/figures/imagine-pendulum-tdmpc2.png
