// What devices have of memory, and what of the process they may reach: tracked, so that what lies outside is refused and
// what is too much is not given. What an allocation holds is garbage until it is written and again once it is freed.

#include "ground.h"
#include "state.h"

namespace emulated {

struct Piece {
    u64 bytes;
    Context *context;
    bool freed;
};

static std::map<u64, Piece> &pieces() {
    static auto &map = *new std::map<u64, Piece>;
    return map;
}

// Memory of the process that devices may reach: allocated as such, or registered.
struct Pinned {
    u64 bytes;
    bool registered;
};

static std::map<u64, Pinned> &pinned() {
    static auto &map = *new std::map<u64, Pinned>;
    return map;
}

static u64 address(const void *at) {
    return reinterpret_cast<u64>(at);
}

static void release(std::map<u64, Piece>::iterator piece) {
    Device &device = state().devices[piece->second.context->device];
    device.used -= piece->second.bytes;
    put(reinterpret_cast<void *>(piece->first), piece->second.bytes, state().settings.guarded);
    pieces().erase(piece);
}

Result allocate(Context &context, u64 bytes, void **at) {
    Device &device = state().devices[context.device];
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > device.total - device.used) return OUT_OF_MEMORY;
    *at = get(bytes, state().settings.guarded);
    if (*at == nullptr) return OUT_OF_MEMORY;
    device.used += bytes;
    pieces()[address(*at)] = {bytes, &context, false};
    return SUCCESS;
}

bool is_allocated(const void *at) {
    const auto piece = pieces().find(address(at));
    return piece != pieces().end() && !piece->second.freed;
}

// From the call on it is no allocation; the memory is given back when the stream comes to it.
Work releasing(void *at) {
    pieces().find(address(at))->second.freed = true;
    return [at] {
        Lock lock(state().mutex);
        const auto piece = pieces().find(address(at));
        if (piece != pieces().end()) release(piece);
    };
}

bool is_inside(const void *at, u64 bytes) {
    auto piece = pieces().upper_bound(address(at));
    if (piece == pieces().begin()) return false;
    --piece;
    const u64 offset = address(at) - piece->first;
    return !piece->second.freed && offset <= piece->second.bytes && bytes <= piece->second.bytes - offset;
}

void release_all(Context &context) {
    for (auto piece = pieces().begin(); piece != pieces().end();) {
        const auto next = std::next(piece);
        if (piece->second.context == &context) release(piece);
        piece = next;
    }
}

bool is_pinned(const void *at, u64 bytes) {
    auto range = pinned().upper_bound(address(at));
    if (range == pinned().begin()) return false;
    --range;
    const u64 offset = address(at) - range->first;
    return offset <= range->second.bytes && bytes <= range->second.bytes - offset;
}

static bool overlaps_pinned(const void *at, u64 bytes) {
    const auto next = pinned().lower_bound(address(at) + bytes);
    if (next == pinned().begin()) return false;
    const auto range = std::prev(next);
    return range->first + range->second.bytes > address(at);
}

}  // namespace emulated

using namespace emulated;

API cuMemAlloc_v2(void **at, size_t bytes) {
    return inside(__func__, [&](Context &context, Lock &) {
        if (disturbs(context)) return CAPTURE_UNSUPPORTED;
        return allocate(context, bytes, at);
    });
}

// A device is done with all its work before memory is given back.
API cuMemFree_v2(void *at) {
    return inside(__func__, [&](Context &context, Lock &lock) {
        if (disturbs(context)) return CAPTURE_UNSUPPORTED;
        if (at == nullptr) return SUCCESS;
        if (!is_allocated(at)) return INVALID_VALUE;
        complete_context(lock, *pieces().find(address(at))->second.context);
        if (is_allocated(at)) release(pieces().find(address(at)));
        return SUCCESS;
    });
}

// The memory is there once the stream comes to it: what others write to it before is lost.
API cuMemAllocAsync(void **at, size_t bytes, Stream *handle) {
    return inside(__func__, [&](Context &context, Lock &lock) {
        Stream *stream = stream_of(context, handle);
        if (stream == nullptr) return INVALID_HANDLE;
        if (stream->capture) return NOT_SUPPORTED;
        const Result result = allocate(*stream->context, bytes, at);
        if (result != SUCCESS) return result;
        return enqueue(lock, *stream,
                       [made = *at, bytes, guarded = state().settings.guarded] { spoil(made, bytes, guarded); });
    });
}

API cuMemFreeAsync(void *at, Stream *handle) {
    return inside(__func__, [&](Context &context, Lock &lock) {
        Stream *stream = stream_of(context, handle);
        if (stream == nullptr) return INVALID_HANDLE;
        if (stream->capture) return NOT_SUPPORTED;
        return is_allocated(at) ? enqueue(lock, *stream, releasing(at)) : INVALID_VALUE;
    });
}

API cuMemGetInfo_v2(size_t *unused, size_t *total) {
    return inside(__func__, [&](Context &context, Lock &) {
        const Device &device = state().devices[context.device];
        *unused = device.total - device.used;
        *total = device.total;
        return SUCCESS;
    });
}

API cuMemHostAlloc(void **at, size_t bytes, unsigned) {
    return inside(__func__, [&](Context &context, Lock &) {
        if (disturbs(context)) return CAPTURE_UNSUPPORTED;
        if (bytes == 0) return INVALID_VALUE;
        *at = aligned_alloc(PAGE, (bytes + PAGE - 1) / PAGE * PAGE);
        if (*at == nullptr) return OUT_OF_MEMORY;
        memset(*at, 0xff, bytes);
        pinned()[address(*at)] = {bytes, false};
        return SUCCESS;
    });
}

API cuMemFreeHost(void *at) {
    return inside(__func__, [&](Context &context, Lock &lock) {
        if (disturbs(context)) return CAPTURE_UNSUPPORTED;
        const auto range = pinned().find(address(at));
        if (range == pinned().end() || range->second.registered) return INVALID_VALUE;
        complete_context(lock, context);
        pinned().erase(address(at));
        free(at);
        return SUCCESS;
    });
}

API cuMemHostRegister_v2(void *at, size_t bytes, unsigned) {
    return inside(__func__, [&](Context &, Lock &) {
        if (at == nullptr || bytes == 0) return INVALID_VALUE;
        if (overlaps_pinned(at, bytes)) return HOST_MEMORY_ALREADY_REGISTERED;
        pinned()[address(at)] = {bytes, true};
        return SUCCESS;
    });
}

API cuMemHostUnregister(void *at) {
    return inside(__func__, [&](Context &context, Lock &lock) {
        const auto range = pinned().find(address(at));
        if (range == pinned().end() || !range->second.registered) return HOST_MEMORY_NOT_REGISTERED;
        complete_context(lock, context);
        pinned().erase(address(at));
        return SUCCESS;
    });
}

API cuMemHostGetDevicePointer_v2(void **device, void *at, unsigned) {
    return inside(__func__, [&](Context &, Lock &) {
        if (!is_pinned(at, 0)) return INVALID_VALUE;
        *device = at;
        return SUCCESS;
    });
}
