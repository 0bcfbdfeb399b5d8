#!/bin/sh
# Everything that docs/performance.md rests on: on this machine's CPU, or on a GPU.
#
#   benchmarks/performance.sh CAMVID OUT
#   DEVICE=cuda DTYPE=bfloat16 benchmarks/performance.sh CAMVID OUT
#
# CAMVID holds val/ and valannot/; tables go to OUT. Let nothing else run beside it. About an hour and a quarter on two
# CPU cores. A table that is there already is not measured again.
set -eu

CAMVID=$1 OUT=$2
DEVICE=${DEVICE:-cpu} DTYPE=${DTYPE:-float32} PYTHON=${PYTHON:-python}
MODEL=checkpoints/camvid-vit-tiny
cd "$(dirname "$0")/.."
mkdir -p "$OUT"

table() {  # NAME SCRIPT OPTIONS...
    name=$1 script=$2
    shift 2
    [ -f "$OUT/$name.csv" ] || "$PYTHON" "benchmarks/$script.py" "$@" --device "$DEVICE" --out "$OUT/$name.csv"
}

table ideal ideal --rounds 7 --warmup 1 --dtype "$DTYPE"
table adaptive adaptive "$MODEL" --data camvid --root "$CAMVID" --rounds 4 --batches 3 --dtype "$DTYPE"
table mask mask "$MODEL" --data camvid --root "$CAMVID"
table compiled compiled --dtype "$DTYPE"
table training_step training_step --rounds 15
table scaling scaling --dtype "$DTYPE"
"$PYTHON" benchmarks/scaling.py --plot "$OUT/scaling.csv"
echo "done: tables are in $OUT"
