// What checks of the emulated driver share: its interface, a small program for it, and a bed of a device with that loaded.

#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <vector>

typedef unsigned u32;
typedef unsigned long long u64;
typedef void *Any;

extern "C" {
int cuInit(unsigned);
int cuDeviceGetCount(int *);
int cuDeviceGetAttribute(int *, int, int);
int cuDevicePrimaryCtxRetain(Any *, int);
int cuDevicePrimaryCtxRelease_v2(int);
int cuCtxSetCurrent(Any);
int cuCtxSynchronize();
int cuMemGetInfo_v2(size_t *, size_t *);
int cuMemAlloc_v2(u32 **, size_t);
int cuMemFree_v2(void *);
int cuMemAllocAsync(u32 **, size_t, Any);
int cuMemFreeAsync(void *, Any);
int cuMemHostAlloc(u32 **, size_t, unsigned);
int cuMemFreeHost(void *);
int cuMemHostRegister_v2(void *, size_t, unsigned);
int cuMemHostUnregister(void *);
int cuMemcpyHtoD_v2(void *, const void *, size_t);
int cuMemcpyDtoH_v2(void *, const void *, size_t);
int cuMemcpyHtoDAsync_v2(void *, const void *, size_t, Any);
int cuMemcpyDtoHAsync_v2(void *, const void *, size_t, Any);
int cuMemcpyPeerAsync(void *, Any, const void *, Any, size_t, Any);
int cuMemsetD32Async(void *, u32, size_t, Any);
int cuStreamCreate(Any *, unsigned);
int cuStreamDestroy_v2(Any);
int cuStreamSynchronize(Any);
int cuStreamQuery(Any);
int cuStreamWaitEvent(Any, Any, unsigned);
int cuStreamBeginCapture_v2(Any, unsigned);
int cuStreamEndCapture(Any, Any *);
int cuStreamIsCapturing(Any, int *);
int cuEventCreate(Any *, unsigned);
int cuEventRecord(Any, Any);
int cuEventQuery(Any);
int cuEventSynchronize(Any);
int cuEventDestroy_v2(Any);
int cuEventElapsedTime_v2(float *, Any, Any);
int cuGraphInstantiateWithFlags(Any *, Any, u64);
int cuGraphLaunch(Any, Any);
int cuGraphDestroy(Any);
int cuGraphExecDestroy(Any);
int cuModuleLoadData(Any *, const void *);
int cuModuleUnload(Any);
int cuModuleGetFunction(Any *, Any, const char *);
int cuFuncGetAttribute(int *, int, Any);
int cuFuncSetAttribute(Any, int, int);
int cuLaunchKernel(Any, u32, u32, u32, u32, u32, u32, u32, Any, void **, void **);
int nvrtcCreateProgram(Any *, const char *, const char *, int, const char *const *, const char *const *);
int nvrtcCompileProgram(Any, int, const char *const *);
int nvrtcGetProgramLogSize(Any, size_t *);
int nvrtcGetProgramLog(Any, char *);
int nvrtcGetCUBINSize(Any, size_t *);
int nvrtcGetCUBIN(Any, char *);
int nvrtcDestroyProgram(Any *);
}

inline u32 failures = 0;

inline void expect(bool holds, const char *what) {
    if (holds) return;
    failures++;
    fprintf(stderr, "check: not so: %s\n", what);
}

#define IS(call, code) expect((call) == (code), #call " is " #code)
#define DONE(call) IS(call, 0)

constexpr const char *SOURCE = R"(
#include "machine.cuh"
struct Params { const u32 *x; u32 *y; u32 n, add; };
KERNEL(adds, 128, 1) {
    const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.n) p.y[i] = p.x[i] + p.add;
}
KERNEL(shares, 128, 1) {
    LAUNCH_SHARED(u32, kept);
    kept[12 * 1024 + threadIdx.x] = p.x[threadIdx.x];
    block_sync();
    p.y[threadIdx.x] = kept[12 * 1024 + (threadIdx.x ^ 1)];
}
)";

inline std::string machine;

inline int compile(const char *source, std::vector<const char *> options, std::vector<char> *cubin,
                   std::string *log = nullptr) {
    Any program = nullptr;
    const char *names[] = {"machine.cuh"}, *texts[] = {machine.c_str()};
    DONE(nvrtcCreateProgram(&program, source, "checked.cu", 1, texts, names));
    const int code = nvrtcCompileProgram(program, int(options.size()), options.data());
    size_t size = 0;
    DONE(nvrtcGetProgramLogSize(program, &size));
    std::vector<char> words(size);
    DONE(nvrtcGetProgramLog(program, words.data()));
    if (log != nullptr) *log = words.data();
    if (code == 0) {
        DONE(nvrtcGetCUBINSize(program, &size));
        cubin->resize(size);
        if (size != 0) DONE(nvrtcGetCUBIN(program, cubin->data()));
    }
    DONE(nvrtcDestroyProgram(&program));
    return code;
}

struct Params {
    const u32 *x;
    u32 *y;
    u32 n, add;
};

constexpr u32 N = 300;

// A device with a module, two streams that are no part of the legacy order, and two arrays of N numbers.
struct Bed {
    Any context = nullptr, module = nullptr, adds = nullptr, one = nullptr, other = nullptr;
    u32 *x = nullptr, *y = nullptr;

    Bed(const char *settings, const std::vector<char> &cubin, unsigned flags = 1) {
        setenv("EMULATED_CUDA", settings, 1);
        DONE(cuInit(0));
        DONE(cuDevicePrimaryCtxRetain(&context, 0));
        DONE(cuCtxSetCurrent(context));
        DONE(cuModuleLoadData(&module, cubin.data()));
        DONE(cuModuleGetFunction(&adds, module, "adds"));
        DONE(cuStreamCreate(&one, flags));
        DONE(cuStreamCreate(&other, flags));
        DONE(cuMemAlloc_v2(&x, 4 * N));
        DONE(cuMemAlloc_v2(&y, 4 * N));
    }

    ~Bed() {
        cuDevicePrimaryCtxRelease_v2(0);
        cuCtxSetCurrent(nullptr);
    }

    int add(const u32 *from, u32 *to, u32 value, Any stream) {
        Params p = {from, to, N, value};
        void *params[] = {&p};
        return cuLaunchKernel(adds, 3, 1, 1, 128, 1, 1, 0, stream, params, nullptr);
    }

    bool holds(const u32 *at, u32 value) {
        std::vector<u32> all(N);
        DONE(cuMemcpyDtoH_v2(all.data(), at, 4 * N));
        for (u32 got : all) {
            if (got != value) return false;
        }
        return true;
    }

    void start(u32 value) {
        DONE(cuMemsetD32Async(x, value, N, one));
        DONE(cuMemsetD32Async(y, 1000, N, one));
        DONE(cuStreamSynchronize(one));
    }
};

void check_streams(Bed &bed);
void check_legacy(const std::vector<char> &cubin);
