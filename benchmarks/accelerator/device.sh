#!/usr/bin/env bash
# Measures all of a folder that `prepare` wrote on the GPU of this machine, and
# the PyTorch peer beside it, within so many seconds:
#
#   bash FOLDER/device.sh FOLDER OUT [SECONDS]
#
# OUT/rows.jsonl has our rows, OUT/peer.jsonl the peer's, OUT/log the rest. What
# matters most comes first; what was not reached is left out.
set -u
folder=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
total=${3:-300}
left() { echo $((total - SECONDS)); }

export PYTHONUNBUFFERED=1 PYTHONPATH=$folder
# What is compiled again, for the profile or in a second run, is read from here.
cache=${TMPDIR:-/tmp}/nvae_compiled
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$cache}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
cd "$folder"

ours() {
	local budget=$1
	shift
	if ((budget > 15)); then
		# Rows have been written when this stops it.
		timeout -k 5 $((budget + 15)) python3 -m benchmarks.accelerator.run \
			--folder="$folder" --out="$out/rows.jsonl" --budget="$budget" "$@" \
			2>>"$out/log"
	fi
}
peer() {
	local budget=$1
	shift
	if ((budget > 10)) && [ -e models.json ]; then
		timeout -k 5 $((budget + 15)) python3 -m benchmarks.torch_peer \
			--models=models.json --device=cuda --out="$out/peer.jsonl" \
			--budget="$budget" --seconds=1 "$@" 2>>"$out/log"
	fi
}

{
	nvidia-smi
	python3 -m pip list
} >>"$out/log" 2>&1

# The peer compiles nothing: its time is known.
peer $((total * 20 / 100)) --cases=cifar,mnist,deep,small \
	--batch_sizes=32,32,4,32 --precisions=float32,tf32,bfloat16 \
	--layouts=contiguous,channels_last
ours $(($(left) - total * 20 / 100))
peer $((total * 6 / 100)) --what=sample --cases=cifar,mnist \
	--batch_sizes=32,32 --precisions=tf32,bfloat16
ours $(($(left) - 5)) --profile \
	--only='^step-(cifar-32-bfloat16|deep-4-float32)-bn_swish$'
python3 -m benchmarks.accelerator.table --rows="$out/rows.jsonl" \
	--peer="$out/peer.jsonl" | tee "$out/tables.md"
echo "took $SECONDS s"
