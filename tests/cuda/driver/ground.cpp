// See ground.h.

#include "ground.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <stdlib.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

namespace emulated {

constexpr u64 PAGE_BYTES = 4096, LARGE = 1 << 20, PATTERN = 4 << 20, ALIGNED = 256, GUARDED = 16;
// How much of what was put back stays, in small pieces and in addresses of large ones.
constexpr u64 KEPT_SMALL = 16 << 20, KEPT_LARGE = 16ull << 30;

struct Kept {
    void *at;
    u64 bytes;
};

struct Queue {
    std::deque<Kept> pieces;
    u64 bytes = 0;
};

static u64 rounded(u64 bytes, u64 to) {
    return (bytes + to - 1) / to * to;
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

static bool map_garbage(char *at, u64 bytes) {
    for (u64 done = 0; done < bytes; done += PATTERN) {
        const int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
        const u64 some = std::min(PATTERN, bytes - done);
        if (mmap(at + done, some, PROT_READ | PROT_WRITE, flags, pattern(), 0) == MAP_FAILED) return false;
    }
    return true;
}

static bool is_mapped(u64 bytes, bool guarded) {
    return guarded || bytes >= LARGE;
}

// The first page of a piece.
static char *base_of(void *at) {
    return reinterpret_cast<char *>(reinterpret_cast<u64>(at) / PAGE_BYTES * PAGE_BYTES);
}

static u64 reserved(u64 bytes, bool guarded) {
    return rounded(bytes, PAGE_BYTES) + (guarded ? PAGE_BYTES : 0);
}

static void *get_mapped(u64 bytes, bool guarded) {
    const u64 pages = rounded(bytes, PAGE_BYTES), all = reserved(bytes, guarded);
    void *at = mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return nullptr;
    char *base = static_cast<char *>(at);
    if (map_garbage(base, pages)) return guarded ? base + pages - rounded(bytes, GUARDED) : base;
    munmap(at, all);
    return nullptr;
}

void *get(u64 bytes, bool guarded) {
    if (is_mapped(bytes, guarded)) return get_mapped(bytes, guarded);
    void *at = aligned_alloc(ALIGNED, rounded(bytes, ALIGNED));
    if (at != nullptr) memset(at, 0xff, bytes);
    return at;
}

void spoil(void *at, u64 bytes, bool guarded) {
    if (!is_mapped(bytes, guarded)) {
        memset(at, 0xff, bytes);
    } else if (!map_garbage(base_of(at), rounded(bytes, PAGE_BYTES))) {
        abort();
    }
}

static void keep(Queue &queue, u64 most, Kept piece, void (*end)(const Kept &)) {
    queue.pieces.push_back(piece);
    queue.bytes += piece.bytes;
    while (queue.bytes > most) {
        end(queue.pieces.front());
        queue.bytes -= queue.pieces.front().bytes;
        queue.pieces.pop_front();
    }
}

void put(void *at, u64 bytes, bool guarded) {
    static std::mutex &mutex = *new std::mutex;
    static Queue &small = *new Queue, &large = *new Queue;
    std::lock_guard<std::mutex> lock(mutex);
    spoil(at, bytes, guarded);
    if (!is_mapped(bytes, guarded)) {
        keep(small, KEPT_SMALL, {at, bytes}, [](const Kept &old) { free(old.at); });
        return;
    }
    const u64 all = reserved(bytes, guarded);
    if (guarded) mprotect(base_of(at), all, PROT_NONE);
    keep(large, KEPT_LARGE, {base_of(at), all}, [](const Kept &old) { munmap(old.at, old.bytes); });
}

}  // namespace emulated
