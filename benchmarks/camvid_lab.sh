#!/bin/sh
# PAUMER against its baselines on CamVid: every training, sweep, figure and table of docs/results.md.
#
#   benchmarks/camvid_lab.sh CAMVID OUT
#
# CAMVID holds train/, trainannot/, val/ and valannot/; everything goes to OUT. All second trainings start from
# checkpoints/camvid-vit-tiny-segmenter and differ in the way of pausing alone. About three hours on two CPU cores. The
# same command goes on with what was interrupted. On a GPU, longer and with three seeds, in chunks that end by
# themselves (exit code 75: call it again):
#
#   DEVICE=cuda AMP=bf16 STEPS=6000 CROP=352 SEEDS="0 1 2" MINUTES=9 benchmarks/camvid_lab.sh CAMVID OUT
set -eu

CAMVID=$1 OUT=$2
DEVICE=${DEVICE:-auto} AMP=${AMP:-no} STEPS=${STEPS:-600} HEAD_STEPS=${HEAD_STEPS:-300} CROP=${CROP:-288} SEEDS=${SEEDS:-0} LIMIT=${LIMIT:-20}
MINUTES=${MINUTES:-0} PAUMER=${PAUMER:-paumer} PYTHON=${PYTHON:-python} ROUNDS=${ROUNDS:-9} IMAGE_SIZE=${IMAGE_SIZE:-512}
RATIOS=${RATIOS:-0.2 0.4 0.6 0.8}
PAPER=${PAPER:-@paper}  # the configurations to score
MODEL=checkpoints/camvid-vit-tiny
STARTED=$(date +%s)

# With MINUTES set, a step that would run beyond them is stopped as by Ctrl-C, which loses nothing.
run() {
    if [ "$MINUTES" -eq 0 ]; then
        "$@"
        return
    fi
    left=$((STARTED + 60 * MINUTES - $(date +%s)))
    [ "$left" -gt 20 ] || exit 75
    timeout --signal INT --kill-after 30 "$left" "$@" || { code=$?; [ $code -eq 124 ] && exit 75; [ $code -eq 130 ] && exit 75; exit $code; }
}

second_training() {  # WAY SEED
    [ -f "$OUT/$1-$2/done" ] && return
    run "$PAUMER" train --config recipes/camvid_vit_tiny_baselines.yaml --root "$CAMVID" --pausing "$1" --seed "$2" --out "$OUT/$1-$2" \
        --device "$DEVICE" --amp "$AMP" --steps "$STEPS" --val_every "$STEPS" --crop_size "[$CROP, $CROP]" --resume true
    touch "$OUT/$1-$2/done"
}

sweep() {  # FOLDER MODEL OPTIONS...
    folder=$1 model=$2
    shift 2
    run "$PAUMER" sweep "$model" --data camvid --root "$CAMVID" --device "$DEVICE" --out "$OUT/sweeps/$folder" --no-store "$@"
}

# 1. One second training for each way of pausing, and the heads of Figure 3 on the frozen start.
for seed in $SEEDS; do
    for way in entropy random none max_prob margin; do second_training $way "$seed"; done
done
if [ ! -f "$OUT/heads/done" ]; then
    run "$PAUMER" train --config recipes/camvid_heads.yaml --root "$CAMVID" --out "$OUT/heads" --device "$DEVICE" --amp "$AMP" --steps "$HEAD_STEPS" \
        --val_every "$HEAD_STEPS" --crop_size "[$CROP, $CROP]" --resume true
    touch "$OUT/heads/done"
fi

# 2. Table 1 for all of them; random pausing untrained is the plain network, paused at random.
for seed in $SEEDS; do
    for way in entropy max_prob margin random; do
        sweep "$way-$seed" "$OUT/$way-$seed/last" --criterion $way --search none --pauses "$PAPER"
    done
    sweep "random-untrained-$seed" "$OUT/none-$seed/last" --criterion random --search none --pauses "$PAPER"
done
sweep frozen "$OUT/heads/last" --search none --pauses "$PAPER"

# 3. The shipped checkpoint: Table 1, the grid of Figure 9 and the search of Figure 10 on a fifth of val, the front on all of it.
sweep shipped "$MODEL" --search greedy --limit "$LIMIT" --ratios $RATIOS --pauses "$PAPER"
sweep shipped-random "$MODEL" --criterion random --search none --pauses "$PAPER"

# 4. The paper's protocol: 512x512, batch 1 and the batch that fills the device, fused and unfused attention.
mkdir -p "$OUT/benchmark"
for attention in auto eager; do
    [ -f "$OUT/benchmark/$attention.csv" ] || run "$PAUMER" benchmark "$MODEL" --pauses "$PAPER" --device "$DEVICE" --attention $attention --image-size "$IMAGE_SIZE" "$IMAGE_SIZE" --rounds "$ROUNDS" --warmup 1 \
        --json "$OUT/benchmark/$attention.json" --csv "$OUT/benchmark/$attention.csv"
done

# 5. Other architectures beside ours, timed in turns: the speeds of Figure 5. What was stopped starts anew.
if [ ! -f "$OUT/architectures.csv" ]; then
    run "$PYTHON" benchmarks/architectures.py --dataset ade20k --pauses 5:0.6 3:0.3,5:0.3,7:0.3 3:0.4,5:0.4,7:0.4 --device "$DEVICE" \
        --image-size "$IMAGE_SIZE" "$IMAGE_SIZE" --rounds "$ROUNDS" --warmup 1 --out "$OUT/architectures.part.csv"
    mv "$OUT/architectures.part.csv" "$OUT/architectures.csv"
fi

# 6. Figures and the page; where there are several seeds, of all of them: mean and standard deviation.
seeds_of() {  # WAY: its sweep folders with commas between
    folders=
    for seed in $SEEDS; do folders="$folders${folders:+,}$OUT/sweeps/$1-$seed"; done
    echo "$folders"
}
figures="$OUT/figures"
"$PAUMER" plot entropy "$OUT/heads/last" --data camvid --root "$CAMVID" --limit "$LIMIT" --device "$DEVICE" --out "$figures/entropy"
"$PAUMER" plot tradeoff --relative "$(seeds_of entropy)" --labels "entropy" "random, trained" "random, untrained" "entropy, network frozen" \
    --baselines "$(seeds_of random)" "$(seeds_of random-untrained)" "$OUT/sweeps/frozen" --out "$figures/tradeoff"
"$PAUMER" plot tradeoff --relative "$(seeds_of entropy)" "$(seeds_of max_prob)" "$(seeds_of margin)" \
    --labels "entropy" "largest probability" "margin" --out "$figures/criteria"
"$PAUMER" plot grid "$OUT/sweeps/shipped" --out "$figures/grid"
"$PAUMER" plot greedy "$OUT/sweeps/shipped" --out "$figures/greedy"
"$PAUMER" plot architectures "$OUT/sweeps/shipped" --label PAUMER-Ti --speeds "$OUT/architectures.csv" --published benchmarks/published.csv \
    --out "$figures/architectures"
"$PAUMER" report "$OUT/sweeps/shipped" --data camvid --root "$CAMVID" --out "$OUT/report.html"
set --
for seed in $SEEDS; do
    set -- "$@" "entropy=$OUT/sweeps/entropy-$seed" "max_prob=$OUT/sweeps/max_prob-$seed" "margin=$OUT/sweeps/margin-$seed" \
        "random, trained=$OUT/sweeps/random-$seed" "random, untrained=$OUT/sweeps/random-untrained-$seed"
done
"$PYTHON" benchmarks/tables.py --speeds "$OUT/sweeps/shipped" "$@" "frozen=$OUT/sweeps/frozen" > "$OUT/tables.md"
echo "done: figures in $figures, the page is $OUT/report.html"
