// The order of work. A stream is a queue; work comes after what is before it in its stream, after the events that the
// stream waits for, and as the legacy stream says: what it holds comes after all that blocking streams held before, and
// before all they get later. Nothing is done until its end is asked for, and then only that and what it comes after: so
// work that comes after less than it should is done too early or too late, and its results say so.

#include "state.h"

#include <algorithm>
#include <chrono>

namespace emulated {

// How much may wait in a stream; beyond, a call waits for what is there, as a full queue of a device has it.
constexpr u32 QUEUE = 1024;
// How often a task may be asked for before it gets done by that.
constexpr u32 PATIENCE = 3;

Stream *stream_of(Context &context, Stream *handle) {
    if (handle == nullptr || handle == reinterpret_cast<Stream *>(1)) return &context.legacy;
    return is_known(handle) ? handle : nullptr;
}

static bool is_legacy(const Stream &stream) {
    return &stream == &stream.context->legacy;
}

static void settle(Task &task) {
    typedef std::chrono::steady_clock Clock;
    task.at = std::chrono::duration<double, std::milli>(Clock::now().time_since_epoch()).count();
    task.running = false;
    task.done = true;
    task.work = nullptr;
    task.after.clear();
}

// Does a task that comes after nothing that is not done. Of a lost context, nothing is done any more.
static void run(Lock &lock, Task &task) {
    task.running = true;
    if (task.work && task.context->error == SUCCESS) {
        lock.unlock();
        const bool fine = survives(task.work);
        lock.lock();
        if (!fine) task.context->error = ILLEGAL_ADDRESS;
    }
    settle(task);
    state().changed.notify_all();
}

// Something that a task comes after and that is not done, drawn among what there is; else null.
static TaskRef before(const Task &task) {
    const u64 count = task.after.size();
    if (count == 0) return nullptr;
    const u32 from = draw(u32(count));
    for (u64 i = 0; i < count; i++) {
        const TaskRef &other = task.after[(from + i) % count];
        if (!other->done) return other;
    }
    return nullptr;
}

// Does a task and all it comes after, on a stack of its own: chains are long.
static void finish(Lock &lock, TaskRef task) {
    std::vector<TaskRef> path = {std::move(task)};
    while (!path.empty()) {
        const TaskRef top = path.back();
        if (top->done) {
            path.pop_back();
        } else if (TaskRef other = before(*top)) {
            path.push_back(std::move(other));
        } else if (top->running) {
            state().changed.wait(lock);
        } else {
            run(lock, *top);
        }
    }
}

// The first thing of a task's past that could be done now.
static TaskRef ready(TaskRef task) {
    while (TaskRef other = before(*task)) task = std::move(other);
    return task;
}

// Does some work of other streams that nobody has asked for.
static void stir(Lock &lock, Context &context) {
    std::vector<TaskRef> some;
    for (Stream *stream : context.streams) {
        if (stream->last && !stream->last->done && draw(2) == 0) some.push_back(ready(stream->last));
    }
    for (const TaskRef &task : some) finish(lock, task);
}

void complete(Lock &lock, TaskRef task) {
    if (task == nullptr || task->done) return;
    if (state().settings.order == Order::DRAWN) stir(lock, *task->context);
    finish(lock, std::move(task));
}

static void add_after(Task &task, const TaskRef &other) {
    if (other && !other->done) task.after.push_back(other);
}

static void order_by_legacy(Task &task, const Stream &stream) {
    Context &context = *stream.context;
    if (is_legacy(stream)) {
        for (const Stream *other : context.streams) {
            if (other->blocking) add_after(task, other->last);
        }
    } else if (stream.blocking) {
        add_after(task, context.legacy.last);
    }
}

static Result captured(Stream &stream, Work work) {
    Capture &capture = *stream.capture;
    if (capture.invalid) return CAPTURE_INVALIDATED;
    capture.graph.nodes.push_back({std::move(work), stream.ends});
    stream.ends = {u32(capture.graph.nodes.size() - 1)};
    return SUCCESS;
}

// What the legacy stream does would have to come after what blocking streams only capture.
static bool spoils(Stream &stream) {
    bool any = false;
    if (!is_legacy(stream)) return false;
    for (Stream *other : stream.context->streams) {
        if (other->blocking && other->capture) other->capture->invalid = any = true;
    }
    return any;
}

Result enqueue(Lock &lock, Stream &stream, Work work, TaskRef *made) {
    if (stream.context->error != SUCCESS) return stream.context->error;
    if (stream.capture) return captured(stream, std::move(work));
    if (spoils(stream)) return CAPTURE_IMPLICIT;
    if (++stream.waiting > QUEUE) complete_stream(lock, stream);
    auto task = std::make_shared<Task>();
    task->work = std::move(work);
    task->context = stream.context;
    add_after(*task, stream.last);
    order_by_legacy(*task, stream);
    stream.last = task;
    if (made != nullptr) *made = task;
    if (state().settings.order == Order::EAGER) complete(lock, task);
    return SUCCESS;
}

void wait_for(Stream &stream, const TaskRef &task) {
    if (task == nullptr || task->done) return;
    auto both = std::make_shared<Task>();
    both->context = stream.context;
    add_after(*both, stream.last);
    order_by_legacy(*both, stream);
    both->after.push_back(task);
    stream.last = both;
}

void complete_stream(Lock &lock, Stream &stream) {
    stream.waiting = 0;
    if (is_legacy(stream)) {
        for (Stream *other : std::list<Stream *>(stream.context->streams)) {
            if (is_known(other) && other->blocking) complete(lock, other->last);
        }
    }
    complete(lock, stream.last);
}

void complete_context(Lock &lock, Context &context) {
    std::vector<TaskRef> ends = std::move(context.left);
    context.left.clear();
    ends.push_back(context.legacy.last);
    for (Stream *stream : context.streams) ends.push_back(stream->last);
    while (!ends.empty()) {
        std::swap(ends[draw(u32(ends.size()))], ends.back());
        complete(lock, ends.back());
        ends.pop_back();
    }
}

bool is_done(Lock &lock, const TaskRef &task) {
    if (task == nullptr || task->done) return true;
    if (++task->asked >= PATIENCE) complete(lock, task);
    return task->done;
}

bool disturbs(Context &context) {
    constexpr u32 GLOBAL = 0, OWN = 1;
    bool any = false;
    for (Stream *stream : context.streams) {
        if (!stream->capture) continue;
        const bool own = stream->capture->thread == std::this_thread::get_id();
        if (stream->capture->mode == GLOBAL || (stream->capture->mode == OWN && own))
            stream->capture->invalid = any = true;
    }
    return any;
}

}  // namespace emulated
