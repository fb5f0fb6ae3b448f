#include <cstdio>
#include "/tmp/w/k2/shaders/cuda/matmul_tiles.cu"
int main(){ printf("%u %u\n", unsigned(SHARED_BYTES), unsigned(WEIGHTS)); }