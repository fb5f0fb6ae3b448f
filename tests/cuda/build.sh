#!/bin/sh
# Builds the emulated driver and compiler into a folder (target/emulated-cuda): a program that looks for libraries there
# first, by LD_LIBRARY_PATH, finds a machine with a device. Needs g++ 12 or later, here and where kernels are compiled.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../target/emulated-cuda}
mkdir -p "$out/include" "$out/objects"
out=$(cd "$out" && pwd)
# Nothing is done again that nothing has changed of.
if [ -e "$out/libnvrtc.so.13" ] && [ -z "$(find "$here" -type f -newer "$out/libnvrtc.so.13")" ]; then
    exit 0
fi
cp "$here"/*.h "$out/include/"

compile() {
    ${EMULATED_CXX:-g++} -std=c++17 -O2 -g1 -fPIC -fvisibility=hidden -Wall -Wextra -c "$1" \
        -o "$out/objects/$(basename "$1" .cpp).o"
}

jobs=
for source in "$here"/driver/*.cpp "$here"/compiler/*.cpp; do
    compile "$source" &
    jobs="$jobs $!"
done
for job in $jobs; do
    wait "$job"
done

link() {
    name=$1
    shift
    ${EMULATED_CXX:-g++} -shared -Wl,-soname,"$name" -Wl,-z,defs "$@" -o "$out/$name.new" -ldl -lpthread
    mv "$out/$name.new" "$out/$name"
    ln -sf "$name" "$out/${name%.*}"
}

cd "$out/objects"
link libcuda.so.1 copies.o crew.o devices.o errors.o ground.o memory.o modules.o order.o pools.o settings.o streams.o
link libnvrtc.so.13 compile.o nvrtc.o options.o settings.o
