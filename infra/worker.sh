#!/usr/bin/env bash
# A Prefect worker whose machine is a node of the Ray cluster, without CPUs or GPUs of its own: drivers run here,
# rollouts elsewhere. When either ends the other is ended too, so that whoever watches starts both again.
# SIA_RAY_ARGS: further arguments of `ray start`.
set -u
: "${RAY_ADDRESS:?host:port of the cluster}"

log=$(mktemp)
# shellcheck disable=SC2086  # several arguments are meant
ray start --block --address="$RAY_ADDRESS" --num-cpus=0 --num-gpus=0 --disable-usage-stats ${SIA_RAY_ARGS:-} >"$log" 2>&1 &
node=$!
until grep -q "Ray runtime started" "$log"; do
  kill -0 "$node" 2>/dev/null || { cat "$log" >&2; exit 1; }
  sleep 1
done
"${SIA:-sia}" worker "$@" &
worker=$!

trap 'kill -TERM "$worker" 2>/dev/null' TERM INT
wait -n "$node" "$worker"
code=$?
kill -TERM "$worker" 2>/dev/null
wait "$worker" 2>/dev/null
kill -TERM "$node" 2>/dev/null
wait "$node" 2>/dev/null
exit "$code"
