// Copies and fills. As a device has it: what is copied from pageable memory is read before the call returns, though it need
// not have arrived by then; what is copied to pageable memory has arrived. Of pinned memory, both happen in the stream's
// order. Whatever lies outside of allocations is refused.

#include "state.h"

namespace emulated {

enum class Side { Host, Device };

struct Copying {
    void *to;
    const void *from;
    u64 bytes;
    Side to_side, from_side;
};

static bool is_reachable(Side side, const void *at, u64 bytes) {
    return side == Side::Host ? at != nullptr : is_inside(at, bytes) || is_pinned(at, bytes);
}

static bool is_pageable(Side side, const void *at, u64 bytes) {
    return side == Side::Host && !is_pinned(at, bytes) && !is_inside(at, bytes);
}

static Work work_of(const Copying &copy, bool keep) {
    if (keep) {
        auto bytes = std::make_shared<std::string>(static_cast<const char *>(copy.from), copy.bytes);
        return [copy, bytes] { memcpy(copy.to, bytes->data(), copy.bytes); };
    }
    return [copy] { memmove(copy.to, copy.from, copy.bytes); };
}

// From here on, what pageable memory holds goes by its own way instead of being kept: the copy is done before the call ends.
constexpr u64 LARGE = 1 << 20;

// A copy in a stream; `now` for one whose end the call waits for where memory of the process is written.
static Result put(Lock &lock, Stream *stream, const Copying &copy, bool now) {
    if (stream == nullptr) return INVALID_HANDLE;
    if (copy.bytes == 0) return SUCCESS;
    if (!is_reachable(copy.to_side, copy.to, copy.bytes) || !is_reachable(copy.from_side, copy.from, copy.bytes))
        return INVALID_VALUE;
    const bool pageable = is_pageable(copy.from_side, copy.from, copy.bytes) && !stream->capture,
               keep = pageable && copy.bytes < LARGE;
    TaskRef task;
    const Result result = enqueue(lock, *stream, work_of(copy, keep), &task);
    const bool host = copy.to_side == Side::Host || (copy.from_side == Side::Host && !keep);
    if ((host && now) || (pageable && !keep) || is_pageable(copy.to_side, copy.to, copy.bytes)) complete(lock, task);
    return result;
}

static Result copy_in_stream(const char *name, const Copying &copy, Stream *handle) {
    return inside(name,
                  [&](Context &context, Lock &lock) { return put(lock, stream_of(context, handle), copy, false); });
}

static Result copy_now(const char *name, const Copying &copy) {
    return inside(name, [&](Context &context, Lock &lock) {
        return disturbs(context) ? CAPTURE_IMPLICIT : put(lock, &context.legacy, copy, true);
    });
}

template <typename T>
static Result fill(const char *name, T *at, T value, u64 count, Stream *handle, bool now) {
    return inside(name, [&](Context &context, Lock &lock) {
        Stream *stream = stream_of(context, handle);
        if (stream == nullptr) return INVALID_HANDLE;
        if (now && disturbs(context)) return CAPTURE_IMPLICIT;
        if (reinterpret_cast<u64>(at) % sizeof(T) != 0) return INVALID_VALUE;
        if (count == 0) return SUCCESS;
        if (!is_reachable(Side::Device, at, count * sizeof(T))) return INVALID_VALUE;
        return enqueue(lock, *stream, [=] {
            for (u64 i = 0; i < count; i++) at[i] = value;
        });
    });
}

}  // namespace emulated

using namespace emulated;

API cuMemcpyHtoD_v2(void *to, const void *from, size_t bytes) {
    return copy_now(__func__, {to, from, bytes, Side::Device, Side::Host});
}

API cuMemcpyDtoH_v2(void *to, const void *from, size_t bytes) {
    return copy_now(__func__, {to, from, bytes, Side::Host, Side::Device});
}

API cuMemcpyDtoD_v2(void *to, const void *from, size_t bytes) {
    return copy_now(__func__, {to, from, bytes, Side::Device, Side::Device});
}

API cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, Stream *stream) {
    return copy_in_stream(__func__, {to, from, bytes, Side::Device, Side::Host}, stream);
}

API cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, Stream *stream) {
    return copy_in_stream(__func__, {to, from, bytes, Side::Host, Side::Device}, stream);
}

API cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t bytes, Stream *stream) {
    return copy_in_stream(__func__, {to, from, bytes, Side::Device, Side::Device}, stream);
}

API cuMemcpyPeer(void *to, Context *there, const void *from, Context *here, size_t bytes) {
    return inside(__func__, [&](Context &context, Lock &lock) {
        if (!is_known(there) || !is_known(here)) return INVALID_CONTEXT;
        return disturbs(context) ? CAPTURE_IMPLICIT
                                 : put(lock, &context.legacy, {to, from, bytes, Side::Device, Side::Device}, true);
    });
}

API cuMemcpyPeerAsync(void *to, Context *there, const void *from, Context *here, size_t bytes, Stream *stream) {
    return inside(__func__, [&](Context &context, Lock &lock) {
        if (!is_known(there) || !is_known(here)) return INVALID_CONTEXT;
        return put(lock, stream_of(context, stream), {to, from, bytes, Side::Device, Side::Device}, false);
    });
}

API cuMemsetD8_v2(u8 *at, u8 value, size_t count) {
    return fill(__func__, at, value, count, nullptr, true);
}

API cuMemsetD32_v2(u32 *at, u32 value, size_t count) {
    return fill(__func__, at, value, count, nullptr, true);
}

API cuMemsetD8Async(u8 *at, u8 value, size_t count, Stream *stream) {
    return fill(__func__, at, value, count, stream, false);
}

API cuMemsetD32Async(u32 *at, u32 value, size_t count, Stream *stream) {
    return fill(__func__, at, value, count, stream, false);
}
