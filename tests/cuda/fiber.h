// A thread of a block is a fiber: a stack of its own, left and entered again by a few instructions. A stack is as long as
// it is aligned and ends with what its fiber knows of itself, so a running thread finds that by its stack pointer alone.
// Knows nothing of blocks and warps but that they are there; never runs two fibers at once.

#pragma once

#include "numbers.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

// The instructions that switch are of one processor; EMULATED_UCONTEXT has the system do it there, too, slowly.
#if defined(__x86_64__) && !defined(EMULATED_UCONTEXT)
#define EMULATED_X86_64 1
#else
#define EMULATED_X86_64 0
#include <ucontext.h>
#endif

namespace emulated {

constexpr u64 STACK = 128 << 10;
constexpr u64 PAGE = 4096;

struct Point {
    u32 x = 1, y = 1, z = 1;
};

// A copy from global to shared memory that was begun and is not yet seen.
struct Copy {
    void *to;
    const void *from;
    u32 bytes, group;
};

struct Block;
struct Warp;

struct Fiber {
#if EMULATED_X86_64
    void *at;
#else
    ucontext_t at;
#endif
    void (*main)(Fiber &);
    Block *block;
    Warp *warp;
    Point thread;
    u32 lane;
    // How often it showed something to its warp.
    u32 shows;
    Fiber *next;
    // Copies under way, in the order they were begun, and the group that the next belongs to.
    Copy *copies;
    u32 copying, room, group;
};

constexpr u64 SELF = (sizeof(Fiber) + 63) / 64 * 64;

// The running thread.
DEVICE Fiber &self() {
    const u64 here = reinterpret_cast<u64>(__builtin_frame_address(0));
    return *reinterpret_cast<Fiber *>((here & ~(STACK - 1)) + STACK - SELF);
}

#if EMULATED_X86_64

#ifdef __AVX512F__
#define EMULATED_VECTORS                                                                                        \
    "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", \
        "xmm28", "xmm29", "xmm30", "xmm31", "k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7",
#else
#define EMULATED_VECTORS
#endif

typedef void *Place;

// Leaves the running stack, noting where, and goes on where another was left. The compiler keeps what it needs on the
// stack; nothing is called or returned from, so that the processor goes on guessing returns well.
DEVICE void go(Place *from, Place *to) {
    asm volatile(
        "lea -128(%%rsp), %%rsp\n push %%rbp\n lea 1f(%%rip), %%rax\n push %%rax\n mov %%rsp, (%%rdi)\n"
        "mov (%%rsi), %%rsp\n pop %%rax\n jmp *%%rax\n"
        "1: pop %%rbp\n lea 128(%%rsp), %%rsp"
        : "+D"(from), "+S"(to)
        :
        : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc",
          EMULATED_VECTORS "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
          "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

__attribute__((noinline)) inline void begin() {
    Fiber &fiber = self();
    fiber.main(fiber);
    abort();
}

// Makes a fiber begin its main function when it is gone to. Stacks begin at different cache lines.
DEVICE void prepare(Fiber &fiber, u32 index) {
    char *top = reinterpret_cast<char *>(&fiber) - index % 61 * 64;
    void **words = reinterpret_cast<void **>(top) - 2;
    words[1] = nullptr;
    words[0] = reinterpret_cast<void *>(begin);
    fiber.at = words;
}

#else

typedef ucontext_t Place;

inline void go(Place *from, Place *to) {
    swapcontext(from, to);
}

inline void begin() {
    Fiber &fiber = self();
    fiber.main(fiber);
    abort();
}

inline void prepare(Fiber &fiber, u32) {
    char *end = reinterpret_cast<char *>(&fiber);
    getcontext(&fiber.at);
    fiber.at.uc_stack.ss_size = STACK - SELF - PAGE;
    fiber.at.uc_stack.ss_sp = end - fiber.at.uc_stack.ss_size;
    fiber.at.uc_link = nullptr;
    makecontext(&fiber.at, begin, 0);
}

#endif

// Stacks to take and give back, mapped when first needed, the last page of each closed to what overflows.
class Stacks {
  public:
    Fiber &take() {
        if (free_ == nullptr) grow();
        Fiber &fiber = *free_;
        free_ = fiber.next;
        return fiber;
    }

    void give(Fiber &fiber) {
        fiber.next = free_;
        free_ = &fiber;
    }

    // The fiber on whose stack an address lies, or null.
    const Fiber *at(u64 address) const {
        for (u32 i = 0; i < maps_; i++) {
            if (address - map_[i].first < EACH * STACK)
                return reinterpret_cast<const Fiber *>((address & ~(STACK - 1)) + STACK - SELF);
        }
        return nullptr;
    }

    Stacks() = default;
    Stacks(const Stacks &) = delete;
    Stacks &operator=(const Stacks &) = delete;

    ~Stacks() {
        for (u32 i = 0; i < maps_; i++) {
            for (u64 at = map_[i].first; at < map_[i].first + EACH * STACK; at += STACK) {
                free(reinterpret_cast<Fiber *>(at + STACK - SELF)->copies);
            }
            munmap(map_[i].at, (EACH + 1) * STACK);
        }
    }

  private:
    static constexpr u64 EACH = 32;
    struct Map {
        void *at;
        u64 first;
    };

    void grow() {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void *map = maps_ < 64 ? mmap(nullptr, (EACH + 1) * STACK, PROT_READ | PROT_WRITE, flags, -1, 0) : MAP_FAILED;
        if (map == MAP_FAILED) {
            fprintf(stderr, "emulated: no memory for stacks\n");
            abort();
        }
        const u64 first = (reinterpret_cast<u64>(map) + STACK - 1) & ~(STACK - 1);
        map_[maps_++] = {map, first};
        for (u64 i = EACH; i-- > 0;) {
            mprotect(reinterpret_cast<void *>(first + i * STACK), PAGE, PROT_NONE);
            give(*reinterpret_cast<Fiber *>(first + (i + 1) * STACK - SELF));
        }
    }

    Fiber *free_ = nullptr;
    Map map_[64];
    u32 maps_ = 0;
};

}  // namespace emulated
