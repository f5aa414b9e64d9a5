#!/bin/sh
# What only a machine with a GPU can check, in one go of less than ten minutes.
#
#     benchmarks/gpu_checklist.sh OUT [RUN]
#
# RUN is a preprocessed directory; without it the demo's corpus is made. PYTHON names the Python that
# has nmtasync's packages. Each check writes OUT/NAME.log and has a limit of seconds; a line for each
# says how it ended. The exit status is the number of checks that failed.
set -u
out=${1:?usage: benchmarks/gpu_checklist.sh OUT [RUN]}
mkdir -p "$out"
out=$(cd "$out" && pwd)
run=${2:-$out/demo}
python=${PYTHON:-python}
cd "$(dirname "$0")/.." || exit 2
if [ -n "${2:-}" ]; then run=$(cd "$OLDPWD" && cd "$2" && pwd) || exit 2; fi
export PYTHONPATH="$PWD:$PWD/benchmarks"

$python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "gpu_checklist: PyTorch sees no GPU here" >&2
    exit 2
}
failed=0

# check NAME SECONDS COMMAND...
check() {
    name=$1 limit=$2
    shift 2
    start=$(date +%s)
    timeout "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
    case $status in
    0) verdict=passed ;;
    124) verdict="cut off after $limit s" ;;
    *) verdict="failed with $status" ;;
    esac
    [ $status -eq 0 ] || failed=$((failed + 1))
    printf '%-14s %-22s %4d s\n' "$name" "$verdict" $(($(date +%s) - start))
}

nvidia-smi >"$out/nvidia-smi.log" 2>&1
nmtasync="$python -m cli"
base="--set model.dimension=512 --set model.encoder_layers=6 --set model.decoder_layers=6"
if [ ! -e "$run/manifest.json" ]; then
    check corpus 60 $python -c "
from pathlib import Path
from common import prepare
prepare(Path('$out/made')).root.rename('$run')"
fi
check doctor 30 $nmtasync doctor
check tests 150 $python -m pytest -q tests/house/test_cuda.py
check exchange 40 $python benchmarks/exchange.py --device cuda
check workers 60 $python benchmarks/workers.py --run "$run" --devices cuda:0,cuda:0 --seconds 5 --repeats 1
for precision in fp32 bf16; do
    check "speed-$precision" 40 $python benchmarks/train_speed.py --run "$run" --device cuda \
        --precision $precision --batch-tokens 8000 --batches 6 --repeats 3
done
check profile 40 $nmtasync profile "$run" --device cuda:0 $base --precision bf16
cp -r "$run" "$out/fit"
check fit 80 $nmtasync train "$out/fit" --devices cuda:0 $base --precision bf16 \
    --set data.batch_tokens=fit --max-updates 60
check translate 40 $nmtasync evaluate "$out/fit" --test valid "$run/data/valid/source.txt" \
    "$run/data/valid/target.txt" --device cuda:0
exit $failed
