#!/bin/sh
# Everything that docs/performance.md rests on: on this machine's CPU, or on a GPU.
#
#   benchmarks/performance.sh CAMVID OUT
#   DEVICE=cuda DTYPE=bfloat16 benchmarks/performance.sh CAMVID OUT
#
# CAMVID holds val/ and valannot/; tables, figures and a page of them (README.md) go to OUT. MIXED="photos/*.jpg" names
# images of other cameras, for batches that are mixed. Let nothing else run beside it. About an hour and a quarter on two
# CPU cores. A table that is there already is not measured again.
set -eu

CAMVID=$1 OUT=$2
DEVICE=${DEVICE:-cpu} DTYPE=${DTYPE:-float32} MIXED=${MIXED:-} PYTHON=${PYTHON:-python}
MODEL=checkpoints/camvid-vit-tiny
cd "$(dirname "$0")/.."
mkdir -p "$OUT"

table() {  # NAME SCRIPT OPTIONS...
    name=$1 script=$2
    shift 2
    [ -f "$OUT/$name.csv" ] || "$PYTHON" "benchmarks/$script.py" "$@" --device "$DEVICE" --out "$OUT/$name.csv"
}

table ideal ideal --rounds 11 --dtype "$DTYPE"
# shellcheck disable=SC2086  # a pattern stands for several files
table adaptive adaptive "$MODEL" --data camvid --root "$CAMVID" --rounds 7 --batches 3 --dtype "$DTYPE" ${MIXED:+--mixed $MIXED}
table training_step training_step --rounds 25
table compiled compiled --dtype "$DTYPE"
table mask mask "$MODEL" --data camvid --root "$CAMVID"
table dtypes dtypes "$MODEL" --data camvid --root "$CAMVID"
[ "$DEVICE" != cpu ] || table allocator allocator "$MODEL" --data camvid --root "$CAMVID"
if [ "$DTYPE" = float32 ] && "$PYTHON" -c "import torch; from paumer.device import choose_device, choose_dtype
raise SystemExit(choose_dtype('auto', choose_device('$DEVICE')) != torch.bfloat16)"; then
    table ideal_bfloat16 ideal --rounds 11 --dtype bfloat16 --num-classes 19
    table compiled_bfloat16 compiled --dtype bfloat16
fi
table scaling scaling --dtype "$DTYPE"
"$PYTHON" benchmarks/performance_page.py "$OUT"
echo "done: tables, figures and README.md are in $OUT"
