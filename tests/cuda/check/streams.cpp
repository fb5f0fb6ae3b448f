// Checks what streams, events, captures and graphs order, and what they do not.

#include "bed.h"

#include <atomic>
#include <thread>

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
    u32 late = 0;
    for (u32 i = 0; i < 32; i++) {
        bed.start(1);
        DONE(bed.add(bed.x, bed.y, 1, bed.one));
        DONE(bed.add(bed.y, bed.x, 1, bed.other));
        DONE(cuStreamSynchronize(bed.other));
        DONE(cuStreamSynchronize(bed.one));
        late += bed.holds(bed.x, 1001);
    }
    expect(late > 0, "without an event, late work is late");
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
void check_legacy(const std::vector<char> &cubin) {
    Bed bed("devices=1", cubin, 0);
    bed.start(5);
    DONE(bed.add(bed.x, bed.y, 1, bed.one));
    DONE(bed.add(bed.y, bed.x, 1, nullptr));
    DONE(bed.add(bed.x, bed.y, 1, bed.other));
    DONE(cuStreamSynchronize(bed.other));
    expect(bed.holds(bed.y, 8), "the legacy stream orders blocking ones");
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
            for (u32 i = 0; i < 10; i++)
                wrong += cuLaunchKernel(bed.adds, 800, 1, 1, 128, 1, 1, 0, stream, params, nullptr);
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
            wrong +=
                cuStreamSynchronize(stream) + !bed.holds(at, 200 + t) + cuMemFree_v2(at) + cuStreamDestroy_v2(stream);
        });
    }
    for (std::thread &thread : threads) thread.join();
    expect(wrong == 0, "threads share a context");
}

void check_streams(Bed &bed) {
    check_events(bed);
    check_graphs(bed);
    check_unordered(bed);
    check_threads(bed);
    check_large(bed);
    check_chains(bed);
}
