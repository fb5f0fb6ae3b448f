// Checks the emulated driver and compiler from outside, as a program that loads them sees them: what memory holds, how
// calls fail, and what the other files of this folder say. Takes the folder of `machine.cuh`; fails where something differs.

#include "bed.h"

#include <fstream>
#include <sstream>

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
    DONE(bed.add(bed.x, large, 1, bed.other));
    DONE(cuStreamSynchronize(bed.other));
    DONE(bed.add(large, bed.y, 1, bed.one));
    DONE(cuStreamSynchronize(bed.one));
    expect(bed.holds(bed.y, 0) || bed.holds(bed.y, 13), "memory of a stream is not yet another's");
    DONE(bed.add(bed.x, large, 1, bed.one));
    DONE(bed.add(large, bed.y, 1, bed.one));
    DONE(cuMemFreeAsync(large, bed.one));
    IS(cuMemFreeAsync(large, bed.one), 1);
    DONE(cuStreamSynchronize(bed.one));
    expect(bed.holds(bed.y, 13), "memory of a stream");
    expect(large[0] == ~0u, "freed memory is garbage");
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
    const auto launch = [&](u32 grid, u32 threads, u32 bytes) {
        return cuLaunchKernel(shares, grid, 1, 1, threads, 1, 1, bytes, bed.one, params, nullptr);
    };
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

static const bool is_drawn = getenv("EMULATED_ORDER") != nullptr && strcmp(getenv("EMULATED_ORDER"), "drawn") == 0;

// Of a guarded device, what lies beyond an allocation is not there, nor is what was freed.
static void check_guards(const std::vector<char> &cubin) {
    for (u32 beyond = 0; beyond < 3; beyond++) {
        Bed bed("guard=1,memory=512MiB", cubin);
        u32 *large = nullptr;
        DONE(cuMemAlloc_v2(&large, 3 << 20));
        bed.start(1);
        DONE(bed.add(bed.x, large + (3 << 18) - N, 1, bed.one));
        DONE(cuStreamSynchronize(bed.one));
        expect(bed.holds(large + (3 << 18) - N, 2), "a guarded allocation holds what it should");
        if (beyond == 2) DONE(cuMemFree_v2(large));
        const u32 *from = beyond == 0 ? bed.x + 4 : large + (beyond == 1 ? (3 << 18) - N + 1 : 0);
        DONE(bed.add(from, bed.y, 1, bed.one));
        IS(cuStreamSynchronize(bed.one), 700);
    }
    Bed bed("guard=1,memory=512MiB", cubin);
    u32 *at = nullptr;
    DONE(cuMemAllocAsync(&at, 4 * N, bed.one));
    DONE(cuMemcpyHtoDAsync_v2(at, cubin.data(), 4 * N, bed.other));
    DONE(cuMemFreeAsync(at, bed.one));
    DONE(cuStreamSynchronize(bed.one));
    const int code = cuStreamSynchronize(bed.other);
    expect(code == 700 || (code == 0 && is_drawn), "a copy to what was freed, if it comes later");
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
    DONE(cuStreamSynchronize(bed.one));
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
        check_memory(bed);
        check_launches(bed);
        check_streams(bed);
    }
    check_legacy(cubin);
    check_devices(cubin);
    check_compiler(cubin);
    check_guards(cubin);
    check_faults(cubin);
    fprintf(stderr, "check: %u not so\n", failures);
    return failures != 0;
}
