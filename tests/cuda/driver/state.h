// What the driver is made of: devices, contexts, memory, and streams whose work waits in queues until somebody must see it.
// One lock guards all of it; it is let go while a piece of work is done. Handles are addresses that a table knows.

#pragma once

#include "../block.h"
#include "settings.h"

#include <condition_variable>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

namespace emulated {

typedef std::unique_lock<std::mutex> Lock;
typedef std::function<void()> Work;

struct Context;
struct Event;

// A piece of work. It is done after what it comes after, and only when its end is asked for.
struct Task {
    Work work;
    std::vector<std::shared_ptr<Task>> after;
    Context *context = nullptr;
    bool running = false, done = false;
    // How often somebody asked whether it is done, and when it was, in milliseconds.
    u32 asked = 0;
    double at = 0;
};
typedef std::shared_ptr<Task> TaskRef;

// What was captured: pieces of work, each with those it comes after, which stand before it.
struct Node {
    Work work;
    std::vector<u32> after;
};

struct Graph {
    std::vector<Node> nodes;
};

struct GraphExec {
    std::shared_ptr<const Graph> graph;
    TaskRef last;
};

struct Stream;

struct Capture {
    Graph graph;
    Stream *origin;
    u32 mode;
    std::thread::id thread;
    bool invalid = false, ended = false;
};

struct Stream {
    Context *context;
    bool blocking;
    TaskRef last;
    u32 waiting = 0;
    std::shared_ptr<Capture> capture;
    // The captured work that the next comes after.
    std::vector<u32> ends;
};

struct Event {
    Context *context;
    bool timed;
    TaskRef task;
    std::shared_ptr<Capture> capture;
    std::vector<u32> ends;
};

struct Image;

struct Module {
    Context *context;
    Image *image;
    std::list<struct Function> functions;
};

struct Function {
    Module *module;
    const Entry *entry;
    u32 dynamic_shared, launches;
};

struct Device {
    u64 total = 0, used = 0;
    Context *primary = nullptr;
    u32 retained = 0;
};

struct Context {
    u32 device;
    // What ended it; every later call answers with this.
    Result error = SUCCESS;
    Stream legacy;
    std::list<Stream *> streams;
    // Ends of streams that are no more.
    std::vector<TaskRef> left;
    std::set<u32> peers;
};

struct State {
    std::mutex mutex;
    std::condition_variable changed;
    Settings settings;
    std::vector<Device> devices;
    std::unordered_set<const void *> handles;
    u64 random = 1;
    u64 launches = 0;
};

// There is one, and it is never taken down: threads may outlive the end of `main`.
State &state();

// The context of the running thread.
Context *&current();

u32 draw(u32 below);

template <typename T>
T *known(T *handle) {
    state().handles.insert(handle);
    return handle;
}

template <typename T>
bool is_known(const T *handle) {
    return state().handles.count(handle) != 0;
}

inline void forget(const void *handle) {
    state().handles.erase(handle);
}

// Begins a call: counts it, and answers with what the settings or an earlier failure have for it.
Result begin(const char *name);

// A call that needs no context.
template <typename F>
Result plain(const char *name, F body) {
    Lock lock(state().mutex);
    const Result refused = begin(name);
    return refused != SUCCESS ? refused : body(lock);
}

// A call within the thread's context, that may see it end.
template <typename F>
Result inside(const char *name, F body) {
    return plain(name, [&](Lock &lock) -> Result {
        Context *context = current();
        if (context == nullptr) return INVALID_CONTEXT;
        if (!is_known(context)) return CONTEXT_IS_DESTROYED;
        if (context->error != SUCCESS) return context->error;
        const Result result = body(*context, lock);
        return result == SUCCESS && context->error != SUCCESS ? context->error : result;
    });
}

#define API extern "C" __attribute__((visibility("default"))) emulated::Result

// devices.cpp: a number of a device, as the driver's interface counts them.
int attribute(u32 which, u32 device);

// order.cpp: work in its order.

// The stream that a handle names, which may be another context's, or null; the legacy stream is the context's own.
Stream *stream_of(Context &context, Stream *handle);
// Puts work at the end of a stream, or into what it captures. The task, if there is one, goes to `made`.
Result enqueue(Lock &lock, Stream &stream, Work work, TaskRef *made = nullptr);
// Lets what comes next on a stream come after a task, too.
void wait_for(Stream &stream, const TaskRef &task);
void complete(Lock &lock, TaskRef task);
void complete_stream(Lock &lock, Stream &stream);
void complete_context(Lock &lock, Context &context);
// Whether a task is done; one that is asked often enough gets done.
bool is_done(Lock &lock, const TaskRef &task);
// Whether a call that could disturb captures must not be made now by this thread: then these are spoilt.
bool disturbs(Context &context);

// memory.cpp: what is allocated.

Result allocate(Context &context, u64 bytes, void **at);
// What a stream frees is garbage from then on.
Work releasing(void *at);
bool is_allocated(const void *at);
bool is_inside(const void *at, u64 bytes);
void release_all(Context &context);
bool is_pinned(const void *at, u64 bytes);

// crew.cpp: blocks on all cores, and work that may meet addresses that are none.

// Does a task's work; whether it came to its end.
bool survives(const Work &work);

// Whether it ended as it should: not where a thread met an address that is none.
bool run_launch(const Launch &launch);

}  // namespace emulated
