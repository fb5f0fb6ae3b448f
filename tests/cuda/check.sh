#!/bin/sh
# Checks the emulated machine, driver and compiler, built into a folder by build.sh, in both orders of work that show
# what is missing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../target/emulated-cuda}
shaders=$here/../../shaders/cuda
"$here/build.sh" "$out"
out=$(cd "$out" && pwd)
export EMULATED_CACHE="$out/kernels"
cxx="${EMULATED_CXX:-g++} -std=c++17 -g1 -Wall -Wextra -ffp-contract=off -fno-math-errno"

for flags in "-O1 -D__CUDA_ARCH__=750 -DEMULATED_UCONTEXT" "-O1 -march=native" "-O2 -fsanitize=address,undefined"; do
    $cxx $flags -DEMULATED -I "$shaders" -I "$here" "$here/check/device.cpp" -o "$out/check-device"
    for seed in 1 2 3; do
        EMULATED_SEED=$seed "$out/check-device"
    done
done
$cxx -O1 "$here/check/driver.cpp" "$here/check/streams.cpp" -o "$out/check-driver" \
    "$out/libcuda.so.1" "$out/libnvrtc.so.13" -lpthread -Wl,-rpath,"$out"
for order in late drawn; do
    EMULATED_ORDER=$order "$out/check-driver" "$shaders"
done
