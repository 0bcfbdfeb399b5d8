#!/usr/bin/env bash
# The two CamVid trainings, long, on one GPU, in chunks: call it again until it says that both are done.
#
#   benchmarks/train_camvid_gpu.sh CAMVID_FOLDER DEIT_TINY_WEIGHTS OUT [MINUTES_PER_CALL]
#
# A chunk ends by SIGTERM, on which a run writes a checkpoint; the next call goes on from it. Steps, workers and precision
# can be set by the environment, so that the script can be tried in miniature on a CPU (DEVICE=cpu AMP=no STEPS1=2 …).
set -euo pipefail
data=$1 weights=$2 out=$3 minutes=${4:-9}
python=${PYTHON:-python}
common=(--root "$data" --device "${DEVICE:-cuda}" --amp "${AMP:-bf16}" --workers "${WORKERS:-12}" --log_with none --resume true)
here=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$here/src${PYTHONPATH:+:$PYTHONPATH}"

run() { # run NAME arguments…: one training until it is done or the time is up
    local name=$1 code=0
    shift
    timeout --signal TERM --kill-after 60 "$((end - SECONDS))" "$python" -m paumer train "$@" --out "$out/$name" "${common[@]}" || code=$?
    if [ "$code" -ne 0 ]; then
        echo "$name is not done (exit code $code): call again to go on"
        exit "$code"
    fi
}

end=$((SECONDS + minutes * 60))
run segmenter --config "$here/recipes/camvid_vit_tiny_segmenter.yaml" --weights "$weights" --steps "${STEPS1:-8000}" \
    --drop_path_rate 0.1 --val_every 2000 --save_every 1000 ${EXTRA:-}
run pausing --config "$here/recipes/camvid_vit_tiny.yaml" --init "$out/segmenter/last" --steps "${STEPS2:-12000}" \
    --ema_decay 0.999 --val_images 0 --val_every 2000 --save_every 1000 ${EXTRA:-}
echo "both are done; paumer val $out/pausing/best --data camvid --root $data --pauses none @paper"
