// Streams, events, captures and graphs. A stream that captures gathers its work into a graph instead of doing it; streams
// that wait for its events join it. A graph's work is done in an order that is drawn among those that its edges allow.

#include "state.h"

#include <algorithm>

namespace emulated {

static Result make_stream(Context &context, unsigned flags, Stream **made) {
    constexpr unsigned NON_BLOCKING = 1;
    if (flags > NON_BLOCKING) return INVALID_VALUE;
    Stream *stream = known(new Stream);
    stream->context = &context;
    stream->blocking = flags != NON_BLOCKING;
    context.streams.push_back(stream);
    *made = stream;
    return SUCCESS;
}

// Runs with a stream; it fails as that stream's context does.
template <typename F>
static Result with_stream(const char *name, Stream *handle, F body) {
    return inside(name, [&](Context &context, Lock &lock) -> Result {
        Stream *stream = stream_of(context, handle);
        if (stream == nullptr) return INVALID_HANDLE;
        const Context &own = *stream->context;
        if (own.error != SUCCESS) return own.error;
        const Result result = body(*stream, lock);
        return result == SUCCESS ? own.error : result;
    });
}

template <typename F>
static Result with_event(const char *name, Event *event, F body) {
    return inside(
        name, [&](Context &, Lock &lock) -> Result { return is_known(event) ? body(*event, lock) : INVALID_HANDLE; });
}

static Result captured_sync(Stream &stream) {
    stream.capture->invalid = true;
    return CAPTURE_UNSUPPORTED;
}

static Result record(Lock &lock, Event &event, Stream &stream) {
    if (event.context != stream.context) return INVALID_HANDLE;
    event.capture = stream.capture;
    if (stream.capture) {
        event.ends = stream.ends;
        return stream.capture->invalid ? CAPTURE_INVALIDATED : SUCCESS;
    }
    return enqueue(lock, stream, nullptr, &event.task);
}

static Result wait_captured(Stream &stream, const Event &event) {
    if (event.capture->ended) return CAPTURED_EVENT;
    if (stream.capture && stream.capture != event.capture) {
        stream.capture->invalid = event.capture->invalid = true;
        return CAPTURE_MERGE;
    }
    stream.capture = event.capture;
    stream.ends.insert(stream.ends.end(), event.ends.begin(), event.ends.end());
    std::sort(stream.ends.begin(), stream.ends.end());
    stream.ends.erase(std::unique(stream.ends.begin(), stream.ends.end()), stream.ends.end());
    return SUCCESS;
}

static Result wait(Stream &stream, const Event &event) {
    if (event.capture) return wait_captured(stream, event);
    if (stream.capture && event.task) {
        stream.capture->invalid = true;
        return CAPTURE_ISOLATION;
    }
    if (!stream.capture) wait_for(stream, event.task);
    return SUCCESS;
}

// Whether all captured work is before the end of the stream that began.
static bool is_joined(const Graph &graph, const std::vector<u32> &ends) {
    std::vector<bool> seen(graph.nodes.size(), false);
    for (u32 end : ends) seen[end] = true;
    for (u64 i = graph.nodes.size(); i-- > 0;) {
        if (!seen[i]) return false;
        for (u32 before : graph.nodes[i].after) seen[before] = true;
    }
    return true;
}

static Result end_capture(Stream &stream, Graph **made) {
    const std::shared_ptr<Capture> capture = stream.capture;
    *made = nullptr;
    if (!capture || capture->origin != &stream) return CAPTURE_UNMATCHED;
    constexpr u32 RELAXED = 2;
    if (capture->mode != RELAXED && capture->thread != std::this_thread::get_id()) return CAPTURE_WRONG_THREAD;
    capture->ended = true;
    const bool joined = is_joined(capture->graph, stream.ends);
    for (Stream *other : stream.context->streams) {
        if (other->capture != capture) continue;
        other->capture = nullptr;
        other->ends.clear();
    }
    if (capture->invalid) return CAPTURE_INVALIDATED;
    if (!joined) return CAPTURE_UNJOINED;
    *made = known(new Graph(std::move(capture->graph)));
    return SUCCESS;
}

// Does a graph's work: of what comes after nothing undone, some is drawn.
static void run_graph(const Graph &graph, u64 random) {
    std::vector<u32> missing(graph.nodes.size(), 0), ready;
    std::vector<std::vector<u32>> then(graph.nodes.size());
    for (u32 i = 0; i < graph.nodes.size(); i++) {
        missing[i] = u32(graph.nodes[i].after.size());
        for (u32 before : graph.nodes[i].after) then[before].push_back(i);
        if (missing[i] == 0) ready.push_back(i);
    }
    while (!ready.empty()) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        std::swap(ready[(random >> 33) % ready.size()], ready.back());
        const u32 node = ready.back();
        ready.pop_back();
        if (graph.nodes[node].work) graph.nodes[node].work();
        for (u32 next : then[node]) {
            if (--missing[next] == 0) ready.push_back(next);
        }
    }
}

}  // namespace emulated

using namespace emulated;

API cuStreamCreate(Stream **stream, unsigned flags) {
    return inside(__func__, [&](Context &context, Lock &) { return make_stream(context, flags, stream); });
}

API cuStreamCreateWithPriority(Stream **stream, unsigned flags, int) {
    return inside(__func__, [&](Context &context, Lock &) { return make_stream(context, flags, stream); });
}

// What it holds is still done.
API cuStreamDestroy_v2(Stream *stream) {
    return plain(__func__, [&](Lock &) {
        if (!is_known(stream)) return INVALID_HANDLE;
        Context &context = *stream->context;
        if (stream->capture) stream->capture->invalid = true;
        if (stream->last && !stream->last->done) context.left.push_back(stream->last);
        context.streams.remove(stream);
        forget(stream);
        delete stream;
        return SUCCESS;
    });
}

API cuStreamSynchronize(Stream *handle) {
    return with_stream(__func__, handle, [&](Stream &stream, Lock &lock) {
        if (stream.capture) return captured_sync(stream);
        complete_stream(lock, stream);
        return SUCCESS;
    });
}

API cuStreamQuery(Stream *handle) {
    return with_stream(__func__, handle, [&](Stream &stream, Lock &lock) {
        if (stream.capture) return captured_sync(stream);
        return is_done(lock, stream.last) ? SUCCESS : NOT_READY;
    });
}

API cuStreamWaitEvent(Stream *handle, Event *event, unsigned) {
    return with_stream(__func__, handle,
                       [&](Stream &stream, Lock &) { return is_known(event) ? wait(stream, *event) : INVALID_HANDLE; });
}

API cuLaunchHostFunc(Stream *handle, void (*function)(void *), void *data) {
    return with_stream(__func__, handle,
                       [&](Stream &stream, Lock &lock) { return enqueue(lock, stream, [=] { function(data); }); });
}

API cuEventCreate(Event **event, unsigned flags) {
    return inside(__func__, [&](Context &context, Lock &) {
        constexpr unsigned UNTIMED = 2;
        *event = known(new Event{&context, (flags & UNTIMED) == 0, nullptr, nullptr, {}});
        return SUCCESS;
    });
}

API cuEventDestroy_v2(Event *event) {
    return plain(__func__, [&](Lock &) {
        if (!is_known(event)) return INVALID_HANDLE;
        forget(event);
        delete event;
        return SUCCESS;
    });
}

API cuEventRecord(Event *event, Stream *handle) {
    return with_stream(__func__, handle, [&](Stream &stream, Lock &lock) {
        return is_known(event) ? record(lock, *event, stream) : INVALID_HANDLE;
    });
}

API cuEventSynchronize(Event *event) {
    return with_event(__func__, event, [&](Event &of, Lock &lock) {
        if (of.capture) return CAPTURED_EVENT;
        complete(lock, of.task);
        return SUCCESS;
    });
}

API cuEventQuery(Event *event) {
    return with_event(__func__, event, [&](Event &of, Lock &lock) {
        if (of.capture) return CAPTURED_EVENT;
        return is_done(lock, TaskRef(of.task)) ? SUCCESS : NOT_READY;
    });
}

static Result elapsed(const char *name, float *milliseconds, Event *from, Event *to) {
    return with_event(name, from, [&](Event &, Lock &) {
        if (!is_known(to) || !from->timed || !to->timed || !from->task || !to->task) return INVALID_HANDLE;
        if (!from->task->done || !to->task->done) return NOT_READY;
        *milliseconds = float(to->task->at - from->task->at);
        return SUCCESS;
    });
}

API cuEventElapsedTime(float *milliseconds, Event *from, Event *to) {
    return elapsed(__func__, milliseconds, from, to);
}

API cuEventElapsedTime_v2(float *milliseconds, Event *from, Event *to) {
    return elapsed(__func__, milliseconds, from, to);
}

API cuStreamBeginCapture_v2(Stream *handle, unsigned mode) {
    return with_stream(__func__, handle, [&](Stream &stream, Lock &) {
        if (&stream == &stream.context->legacy) return CAPTURE_UNSUPPORTED;
        if (stream.capture) return captured_sync(stream);
        stream.capture = std::make_shared<Capture>();
        stream.capture->origin = &stream;
        stream.capture->mode = mode;
        stream.capture->thread = std::this_thread::get_id();
        stream.ends.clear();
        return SUCCESS;
    });
}

API cuStreamEndCapture(Stream *handle, Graph **graph) {
    return with_stream(__func__, handle, [&](Stream &stream, Lock &) { return end_capture(stream, graph); });
}

API cuStreamIsCapturing(Stream *handle, int *status) {
    return with_stream(__func__, handle, [&](Stream &stream, Lock &) {
        *status = !stream.capture ? 0 : stream.capture->invalid ? 2 : 1;
        return SUCCESS;
    });
}

API cuGraphInstantiateWithFlags(GraphExec **made, Graph *graph, unsigned long long) {
    return inside(__func__, [&](Context &, Lock &) {
        if (!is_known(graph)) return INVALID_VALUE;
        *made = known(new GraphExec{std::make_shared<Graph>(*graph), nullptr});
        return SUCCESS;
    });
}

// A graph that was begun holds itself until it is done, and its launches follow each other.
API cuGraphLaunch(GraphExec *exec, Stream *handle) {
    return with_stream(__func__, handle, [&](Stream &stream, Lock &lock) {
        if (!is_known(exec)) return INVALID_VALUE;
        if (stream.capture) return CAPTURE_UNSUPPORTED;
        wait_for(stream, exec->last);
        const u64 random = draw(~0u);
        return enqueue(lock, stream, [graph = exec->graph, random] { run_graph(*graph, random); }, &exec->last);
    });
}

API cuGraphUpload(GraphExec *exec, Stream *handle) {
    return with_stream(__func__, handle, [&](Stream &, Lock &) { return is_known(exec) ? SUCCESS : INVALID_VALUE; });
}

API cuGraphExecDestroy(GraphExec *exec) {
    return plain(__func__, [&](Lock &) {
        if (!is_known(exec)) return INVALID_VALUE;
        forget(exec);
        delete exec;
        return SUCCESS;
    });
}

API cuGraphDestroy(Graph *graph) {
    return plain(__func__, [&](Lock &) {
        if (!is_known(graph)) return INVALID_VALUE;
        forget(graph);
        delete graph;
        return SUCCESS;
    });
}

API cuGraphGetNodes(Graph *graph, void **, size_t *count) {
    return plain(__func__, [&](Lock &) {
        if (!is_known(graph)) return INVALID_VALUE;
        *count = graph->nodes.size();
        return SUCCESS;
    });
}
