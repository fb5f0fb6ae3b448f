// Memory of devices is memory of the process, tracked: what an allocation holds is garbage until it is written and again
// once it is freed, and what was freed stays mapped for a while, so that late readers see garbage instead of ending. Large
// allocations are copies-on-write of some pages of garbage: they cost what is written to them.

#include "state.h"

#include <deque>
#include <sys/mman.h>
#include <unistd.h>

namespace emulated {

constexpr u64 LARGE = 1 << 20, PATTERN = 4 << 20, ALIGNED = 256;
// How much of what was freed stays, in small and in large pieces; large ones are no more than addresses.
constexpr u64 KEPT_SMALL = 16 << 20, KEPT_LARGE = 16ull << 30;

struct Piece {
    u64 bytes;
    Context *context;
    bool freed;
};

struct Kept {
    void *at;
    u64 bytes;
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

// A file of garbage, as long as PATTERN.
static int pattern() {
    static const int file = [] {
        const int made = memfd_create("garbage", MFD_CLOEXEC);
        const std::string bytes(PATTERN, '\xff');
        if (made < 0 || write(made, bytes.data(), bytes.size()) != ssize_t(bytes.size())) abort();
        return made;
    }();
    return file;
}

static u64 mapped(u64 bytes) {
    return (bytes + PATTERN - 1) / PATTERN * PATTERN;
}

static bool map_garbage(char *at, u64 bytes) {
    for (u64 done = 0; done < bytes; done += PATTERN) {
        const int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
        if (mmap(at + done, PATTERN, PROT_READ | PROT_WRITE, flags, pattern(), 0) == MAP_FAILED) return false;
    }
    return true;
}

static void *get_large(u64 bytes) {
    void *at = mmap(nullptr, mapped(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return nullptr;
    if (map_garbage(static_cast<char *>(at), mapped(bytes))) return at;
    munmap(at, mapped(bytes));
    return nullptr;
}

static void *get(u64 bytes) {
    if (bytes >= LARGE) return get_large(bytes);
    void *at = aligned_alloc(ALIGNED, (bytes + ALIGNED - 1) / ALIGNED * ALIGNED);
    if (at != nullptr) memset(at, 0xff, bytes);
    return at;
}

static void keep(std::deque<Kept> &kept, u64 &total, u64 most, Kept piece, void (*end)(const Kept &)) {
    kept.push_back(piece);
    total += piece.bytes;
    while (total > most) {
        end(kept.front());
        total -= kept.front().bytes;
        kept.pop_front();
    }
}

static void spoil(void *at, u64 bytes) {
    if (bytes < LARGE) memset(at, 0xff, bytes);
    if (bytes >= LARGE && !map_garbage(static_cast<char *>(at), mapped(bytes))) abort();
}

static void put(void *at, u64 bytes) {
    spoil(at, bytes);
    static auto &small = *new std::deque<Kept>, &large = *new std::deque<Kept>;
    static u64 smalls = 0, larges = 0;
    if (bytes >= LARGE) {
        keep(large, larges, KEPT_LARGE, {at, mapped(bytes)}, [](const Kept &old) { munmap(old.at, old.bytes); });
    } else {
        keep(small, smalls, KEPT_SMALL, {at, bytes}, [](const Kept &old) { free(old.at); });
    }
}

static void release(std::map<u64, Piece>::iterator piece) {
    Device &device = state().devices[piece->second.context->device];
    device.used -= piece->second.bytes;
    put(reinterpret_cast<void *>(piece->first), piece->second.bytes);
    pieces().erase(piece);
}

Result allocate(Context &context, u64 bytes, void **at) {
    Device &device = state().devices[context.device];
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > device.total - device.used) return OUT_OF_MEMORY;
    *at = get(bytes);
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
        const Result result = allocate(context, bytes, at);
        if (result != SUCCESS) return result;
        return enqueue(lock, *stream, [made = *at, bytes] { spoil(made, bytes); });
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
