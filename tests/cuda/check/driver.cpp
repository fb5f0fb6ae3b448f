// Checks the emulated driver and compiler from outside, as a program that loads them sees them: what streams, events and
// graphs order and what they do not, what memory holds, and how calls fail. Takes the folder of `machine.cuh`. Ends with
// the number of what differs.

#include <atomic>
#include <fstream>
#include <functional>
#include <sstream>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <thread>
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

static u32 failures = 0;

static void expect(bool holds, const char *what) {
    if (holds) return;
    failures++;
    fprintf(stderr, "check: not so: %s\n", what);
}

#define IS(call, code) expect((call) == (code), #call " is " #code)
#define DONE(call) IS(call, 0)

static const char *const SOURCE = R"(
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

static std::string machine;

static int compile(const char *source, std::vector<const char *> options, std::vector<char> *cubin, std::string *log = nullptr) {
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

static void check_events(Bed &bed) {
    Any event = nullptr, begun = nullptr;
    float milliseconds = -1;
    DONE(cuEventCreate(&event, 0));
    DONE(cuEventCreate(&begun, 0));
    DONE(cuEventQuery(event));
    bed.start(1);
    DONE(cuEventRecord(begun, bed.one));
    DONE(bed.add(bed.x, bed.y, 1, bed.one));
    DONE(cuEventRecord(event, bed.one));
    IS(cuEventElapsedTime_v2(&milliseconds, begun, event), 600);
    DONE(cuStreamWaitEvent(bed.other, event, 0));
    DONE(bed.add(bed.y, bed.x, 1, bed.other));
    DONE(cuStreamSynchronize(bed.other));
    DONE(cuEventElapsedTime_v2(&milliseconds, begun, event));
    expect(milliseconds >= 0 && bed.holds(bed.x, 3), "an event orders streams");
    bed.start(1);
    DONE(bed.add(bed.x, bed.y, 1, bed.one));
    DONE(bed.add(bed.y, bed.x, 1, bed.other));
    DONE(cuStreamSynchronize(bed.other));
    DONE(cuStreamSynchronize(bed.one));
    expect(bed.holds(bed.x, 1001), "without an event, late work is late");
    DONE(bed.add(bed.x, bed.y, 1, bed.one));
    DONE(cuEventRecord(event, bed.one));
    u32 asked = 0;
    while (cuEventQuery(event) == 600 && asked < 100) asked++;
    expect(asked > 0 && asked < 100, "an event that is asked for comes, but not at once");
    DONE(cuEventDestroy_v2(event));
    DONE(cuEventDestroy_v2(begun));
    IS(cuEventQuery(event), 400);
}

// What the legacy stream does comes between what blocking streams do before and after.
static void check_legacy(const std::vector<char> &cubin) {
    Bed bed("devices=1", cubin, 0);
    bed.start(5);
    DONE(bed.add(bed.x, bed.y, 1, bed.one));
    DONE(bed.add(bed.y, bed.x, 1, nullptr));
    DONE(bed.add(bed.x, bed.y, 1, bed.other));
    DONE(cuStreamSynchronize(bed.other));
    expect(bed.holds(bed.y, 8), "the legacy stream orders blocking ones");
}

static void check_memory(Bed &bed) {
    u32 *large = nullptr, *pinned = nullptr;
    size_t before = 0, after = 0, total = 0;
    std::vector<u32> host(N, 7);
    DONE(cuMemGetInfo_v2(&before, &total));
    DONE(cuMemAlloc_v2(&large, 9 << 20));
    DONE(cuMemGetInfo_v2(&after, &total));
    expect(before - after == 9 << 20, "memory is counted");
    DONE(cuMemcpyDtoH_v2(host.data(), large + (8 << 18), 4 * N));
    expect(host[0] == ~0u && host[N - 1] == ~0u, "new memory is garbage");
    IS(cuMemcpyDtoH_v2(host.data(), large + (9 << 18) - N + 1, 4 * N), 1);
    IS(cuMemcpyHtoD_v2(bed.x + 1, host.data(), 4 * N), 1);
    IS(cuMemcpyHtoD_v2(host.data(), host.data(), 4), 1);
    DONE(cuMemFree_v2(large));
    IS(cuMemFree_v2(large), 1);
    IS(cuMemFree_v2(bed.x + 1), 1);
    IS(cuMemAlloc_v2(&large, 1ull << 40), 2);
    IS(cuMemAlloc_v2(&large, 0), 1);
    DONE(cuMemGetInfo_v2(&after, &total));
    expect(before == after && total == 512 << 20, "memory comes back");

    // Pageable memory is read at once, pinned memory when the stream comes to it.
    host.assign(N, 7);
    DONE(cuMemcpyHtoDAsync_v2(bed.x, host.data(), 4 * N, bed.one));
    host.assign(N, 8);
    DONE(cuStreamSynchronize(bed.one));
    expect(bed.holds(bed.x, 7), "pageable memory is read at once");
    DONE(cuMemHostAlloc(&pinned, 4 * N, 0));
    for (u32 i = 0; i < N; i++) pinned[i] = 7;
    DONE(cuMemcpyHtoDAsync_v2(bed.x, pinned, 4 * N, bed.one));
    for (u32 i = 0; i < N; i++) pinned[i] = 9;
    DONE(cuStreamSynchronize(bed.one));
    expect(bed.holds(bed.x, 9), "pinned memory is read late");
    DONE(bed.add(bed.x, bed.x, 1, bed.one));
    DONE(cuMemcpyDtoHAsync_v2(pinned, bed.x, 4 * N, bed.one));
    expect(pinned[0] == 9, "pinned memory is written late");
    DONE(cuStreamSynchronize(bed.one));
    expect(pinned[0] == 10, "pinned memory is written");
    DONE(cuMemcpyDtoHAsync_v2(host.data(), bed.x, 4 * N, bed.one));
    expect(host[0] == 10, "pageable memory is written at once");
    DONE(cuMemFreeHost(pinned));
    IS(cuMemFreeHost(pinned), 1);
    DONE(cuMemHostRegister_v2(host.data(), 4 * N, 0));
    IS(cuMemHostRegister_v2(host.data() + 1, 4, 0), 712);
    DONE(cuMemcpyHtoDAsync_v2(bed.x, host.data(), 4 * N, bed.one));
    host.assign(N, 11);
    DONE(cuMemHostUnregister(host.data()));
    IS(cuMemHostUnregister(host.data()), 713);
    expect(bed.holds(bed.x, 11), "registered memory is pinned");

    // What a stream frees it frees in its order.
    DONE(cuMemAllocAsync(&large, 4 * N, bed.one));
    DONE(bed.add(bed.x, large, 1, bed.one));
    DONE(bed.add(large, bed.y, 1, bed.one));
    DONE(cuMemFreeAsync(large, bed.one));
    IS(cuMemFreeAsync(large, bed.one), 1);
    DONE(cuStreamSynchronize(bed.one));
    expect(bed.holds(bed.y, 13), "memory of a stream");
    expect(large[0] == ~0u, "freed memory is garbage");
}

static int end_capture(Bed &bed, Any *exec) {
    Any graph = nullptr;
    const int code = cuStreamEndCapture(bed.one, &graph);
    if (code != 0) return code;
    DONE(cuGraphInstantiateWithFlags(exec, graph, 0));
    DONE(cuGraphDestroy(graph));
    return 0;
}

static void check_graphs(Bed &bed) {
    Any exec = nullptr, fork = nullptr, join = nullptr;
    int status = -1;
    DONE(cuEventCreate(&fork, 2));
    DONE(cuEventCreate(&join, 2));
    bed.start(1);
    DONE(cuStreamBeginCapture_v2(bed.one, 1));
    DONE(bed.add(bed.x, bed.y, 1, bed.one));
    DONE(cuEventRecord(fork, bed.one));
    DONE(cuStreamWaitEvent(bed.other, fork, 0));
    DONE(bed.add(bed.y, bed.x, 1, bed.other));
    DONE(cuEventRecord(join, bed.other));
    DONE(cuStreamWaitEvent(bed.one, join, 0));
    DONE(bed.add(bed.x, bed.x, 10, bed.one));
    DONE(cuStreamIsCapturing(bed.other, &status));
    expect(status == 1, "a stream joins a capture");
    DONE(end_capture(bed, &exec));
    DONE(cuStreamIsCapturing(bed.other, &status));
    expect(status == 0 && bed.holds(bed.x, 1), "a capture does nothing");
    for (u32 i = 0; i < 3; i++) DONE(cuGraphLaunch(exec, i % 2 ? bed.other : bed.one));
    DONE(cuStreamSynchronize(bed.one));
    expect(bed.holds(bed.x, 37), "launches of a graph");
    DONE(cuGraphLaunch(exec, bed.one));
    DONE(cuGraphExecDestroy(exec));
    DONE(cuStreamSynchronize(bed.one));
    expect(bed.holds(bed.x, 49), "a graph that is gone is still done");

    IS(cuStreamWaitEvent(bed.other, fork, 0), 907);
    DONE(cuStreamBeginCapture_v2(bed.one, 1));
    DONE(cuEventRecord(fork, bed.one));
    DONE(cuStreamWaitEvent(bed.other, fork, 0));
    DONE(bed.add(bed.y, bed.x, 1, bed.other));
    IS(end_capture(bed, &exec), 904);
    DONE(cuStreamBeginCapture_v2(bed.one, 1));
    IS(cuStreamSynchronize(bed.one), 900);
    IS(bed.add(bed.y, bed.x, 1, bed.one), 901);
    IS(end_capture(bed, &exec), 901);
    DONE(cuStreamBeginCapture_v2(bed.one, 0));
    u32 *at = nullptr;
    IS(cuMemAlloc_v2(&at, 4), 900);
    IS(end_capture(bed, &exec), 901);
    DONE(cuEventRecord(join, bed.other));
    DONE(cuStreamBeginCapture_v2(bed.one, 2));
    DONE(cuMemAlloc_v2(&at, 4));
    DONE(cuMemFree_v2(at));
    IS(cuStreamWaitEvent(bed.one, join, 0), 905);
    IS(end_capture(bed, &exec), 901);
    IS(end_capture(bed, &exec), 903);
}

// Of what a graph does not order, anything can come first.
static void check_unordered(Bed &bed) {
    Any exec = nullptr, fork = nullptr, join = nullptr;
    DONE(cuEventCreate(&fork, 2));
    DONE(cuEventCreate(&join, 2));
    bed.start(1);
    DONE(cuStreamBeginCapture_v2(bed.one, 1));
    DONE(cuEventRecord(fork, bed.one));
    DONE(cuStreamWaitEvent(bed.other, fork, 0));
    DONE(bed.add(bed.x, bed.y, 1, bed.one));
    DONE(bed.add(bed.y, bed.x, 1, bed.other));
    DONE(cuEventRecord(join, bed.other));
    DONE(cuStreamWaitEvent(bed.one, join, 0));
    DONE(end_capture(bed, &exec));
    bool seen[2] = {false, false};
    for (u32 i = 0; i < 64; i++) {
        bed.start(1);
        DONE(cuGraphLaunch(exec, bed.one));
        DONE(cuStreamSynchronize(bed.one));
        seen[bed.holds(bed.x, 3)] = true;
    }
    expect(seen[0] && seen[1], "what is not ordered comes in both orders");
}

static void check_launches(Bed &bed) {
    Any shares = nullptr, none = nullptr;
    int value = 0;
    Params p = {bed.x, bed.y, N, 1};
    void *params[] = {&p};
    IS(cuModuleGetFunction(&none, bed.module, "none"), 500);
    DONE(cuModuleGetFunction(&shares, bed.module, "shares"));
    DONE(cuFuncGetAttribute(&value, 0, shares));
    expect(value == 128, "threads of a function");
    const auto launch = [&](u32 grid, u32 threads, u32 bytes) { return cuLaunchKernel(shares, grid, 1, 1, threads, 1, 1, bytes, bed.one, params, nullptr); };
    IS(launch(0, 128, 0), 1);
    IS(launch(1, 129, 0), 1);
    IS(launch(1, 128, (48 << 10) + 512), 1);
    IS(cuFuncSetAttribute(shares, 8, 228 << 10), 1);
    DONE(cuFuncSetAttribute(shares, 8, (48 << 10) + 512));
    bed.start(3);
    DONE(launch(1, 128, (48 << 10) + 512));
    DONE(cuStreamSynchronize(bed.one));
    std::vector<u32> y(128);
    DONE(cuMemcpyDtoH_v2(y.data(), bed.y, 512));
    expect(y[0] == 3 && y[127] == 3, "shared memory that was asked for");
    IS(cuLaunchKernel(shares, 1, 1, 1, 128, 1, 1, 0, reinterpret_cast<Any>(0x1230), params, nullptr), 400);
}

static void check_compiler(const std::vector<char> &cubin) {
    std::vector<char> made, other;
    std::string log;
    IS(compile("int f( {", {"--gpu-architecture=sm_90"}, &made, &log), 6);
    expect(log.find("checked.cu") != std::string::npos, "the compiler says where");
    IS(compile(SOURCE, {"--gpu-architecture=sm_90", "--nonsense"}, &made), 5);
    IS(compile(SOURCE, {"--gpu-architecture=sm_50"}, &made), 5);
    DONE(compile(SOURCE, {"--gpu-architecture=compute_80"}, &made));
    expect(made.empty(), "no code for a virtual device");
    DONE(compile(SOURCE, {"-arch=sm_80"}, &other));
    const char *conditions = "#if !defined(A) || B != 2 || __CUDA_ARCH__ != 800\n#error no\n#endif\n";
    DONE(compile(conditions, {"-arch=sm_80", "-DA", "-D", "B=2"}, &made));
    Any module = nullptr;
    Bed bed("arch=89", other);
    IS(cuModuleLoadData(&module, cubin.data()), 209);
    IS(cuModuleLoadData(&module, "// ptx"), 218);
}

static void check_faults(const std::vector<char> &cubin) {
    {
        Bed bed("fail=cuMemAlloc_v2:3:2,fail=cuLaunchKernel:2:719", cubin);
        u32 *at = nullptr;
        IS(cuMemAlloc_v2(&at, 4), 2);
        DONE(cuMemAlloc_v2(&at, 4));
        DONE(bed.add(bed.x, bed.y, 1, bed.one));
        IS(bed.add(bed.x, bed.y, 1, bed.one), 719);
        IS(cuStreamSynchronize(bed.one), 719);
        IS(cuMemAlloc_v2(&at, 4), 719);
    }
    {
        Bed bed("devices=2,lost_after=2", cubin);
        bed.start(1);
        for (u32 i = 0; i < 3; i++) DONE(bed.add(bed.x, bed.x, 1, bed.one));
        IS(cuStreamSynchronize(bed.one), 700);
        IS(bed.add(bed.x, bed.x, 1, bed.one), 700);
        IS(cuCtxSynchronize(), 700);
    }
    {
        Bed bed("devices=1", cubin);
        DONE(bed.add(nullptr, bed.y, 1, bed.one));
        IS(cuStreamSynchronize(bed.one), 700);
    }
    Bed bed("devices=1", cubin);
    bed.start(1);
    expect(bed.holds(bed.x, 1), "a new context of a device that was lost");
    setenv("EMULATED_CUDA", "devices=0", 1);
    DONE(cuInit(0));
}

static void check_devices(const std::vector<char> &cubin) {
    Bed bed("devices=2,memory=64MiB", cubin);
    Any there = nullptr, stream = nullptr;
    u32 *far = nullptr;
    int count = 0;
    DONE(cuDeviceGetCount(&count));
    expect(count == 2, "two devices");
    IS(cuDevicePrimaryCtxRetain(&there, 2), 101);
    DONE(cuDevicePrimaryCtxRetain(&there, 1));
    bed.start(4);
    DONE(cuCtxSetCurrent(there));
    DONE(cuStreamCreate(&stream, 1));
    DONE(cuMemAlloc_v2(&far, 4 * N));
    IS(bed.add(bed.x, bed.y, 1, stream), 400);
    IS(cuStreamSynchronize(bed.one), 400);
    DONE(cuMemcpyPeerAsync(far, there, bed.x, bed.context, 4 * N, stream));
    DONE(cuStreamSynchronize(stream));
    expect(bed.holds(far, 4), "a copy between devices");
    DONE(cuDevicePrimaryCtxRelease_v2(1));
    IS(cuStreamSynchronize(stream), 709);
    DONE(cuCtxSetCurrent(nullptr));
    IS(cuCtxSynchronize(), 201);
    DONE(cuCtxSetCurrent(bed.context));
    IS(cuMemcpyHtoD_v2(far, &count, 4), 1);
}

static void check_chains(Bed &bed) {
    bed.start(0);
    for (u32 i = 0; i < 5000; i++) DONE(bed.add(bed.x, bed.x, 1, bed.one));
    DONE(cuStreamSynchronize(bed.one));
    expect(bed.holds(bed.x, 5000), "a long chain");
    DONE(bed.add(bed.x, bed.x, 1, bed.one));
    IS(cuStreamQuery(bed.one), 600);
    DONE(cuStreamDestroy_v2(bed.one));
    IS(cuStreamSynchronize(bed.one), 400);
    DONE(cuCtxSynchronize());
    expect(bed.holds(bed.x, 5001), "what a stream leaves is done");
}

// Launches of many blocks are spread over threads, whatever else they do.
static void check_large(Bed &bed) {
    constexpr u32 LARGE = 100000;
    std::vector<std::thread> threads;
    std::atomic<u32> wrong{0};
    for (u32 t = 0; t < 3; t++) {
        threads.emplace_back([&bed, &wrong] {
            Any stream = nullptr;
            u32 *at = nullptr;
            wrong += cuCtxSetCurrent(bed.context) + cuStreamCreate(&stream, 1);
            wrong += cuMemAlloc_v2(&at, 4 * LARGE) + cuMemsetD32Async(at, 5, LARGE, stream);
            Params p = {at, at, LARGE, 3};
            void *params[] = {&p};
            for (u32 i = 0; i < 10; i++) wrong += cuLaunchKernel(bed.adds, 800, 1, 1, 128, 1, 1, 0, stream, params, nullptr);
            std::vector<u32> all(LARGE);
            wrong += cuMemcpyDtoHAsync_v2(all.data(), at, 4 * LARGE, stream);
            for (u32 i = 0; i < LARGE; i++) wrong += all[i] != 35;
            wrong += cuMemFree_v2(at);
        });
    }
    for (std::thread &thread : threads) thread.join();
    expect(wrong == 0, "large launches");
}

// Threads with streams of their own share a context.
static void check_threads(Bed &bed) {
    std::vector<std::thread> threads;
    std::atomic<u32> wrong{0};
    for (u32 t = 0; t < 4; t++) {
        threads.emplace_back([&bed, &wrong, t] {
            Any stream = nullptr, event = nullptr;
            u32 *at = nullptr;
            wrong += cuCtxSetCurrent(bed.context) + cuStreamCreate(&stream, t % 2) + cuEventCreate(&event, 2);
            wrong += cuMemAlloc_v2(&at, 4 * N) + cuMemsetD32Async(at, t, N, stream);
            for (u32 i = 0; i < 200; i++) {
                wrong += bed.add(at, at, 1, stream);
                if (i % 8 == t) wrong += cuEventRecord(event, stream) + cuEventSynchronize(event);
            }
            wrong += cuStreamSynchronize(stream) + !bed.holds(at, 200 + t) + cuMemFree_v2(at) + cuStreamDestroy_v2(stream);
        });
    }
    for (std::thread &thread : threads) thread.join();
    expect(wrong == 0, "threads share a context");
}

int main(int, char **arguments) {
    std::ostringstream text;
    text << std::ifstream(std::string(arguments[1]) + "/machine.cuh").rdbuf();
    machine = text.str();
    std::vector<char> cubin;
    setenv("EMULATED_CUDA", "devices=0", 1);
    IS(cuDeviceGetCount(nullptr), 3);
    IS(cuInit(0), 100);
    DONE(compile(SOURCE, {"--gpu-architecture=sm_90", "--std=c++17", "-fmad=false"}, &cubin));
    {
        Bed bed("memory=512MiB", cubin);
        check_events(bed);
        check_memory(bed);
        check_graphs(bed);
        check_unordered(bed);
        check_launches(bed);
        check_threads(bed);
        check_large(bed);
        check_chains(bed);
    }
    check_legacy(cubin);
    check_devices(cubin);
    check_compiler(cubin);
    check_faults(cubin);
    fprintf(stderr, "check: %u not so\n", failures);
    return failures != 0;
}
