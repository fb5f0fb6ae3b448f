// Runs the blocks of a launch, the last first, on the calling thread and, where there are many, on others beside it. Work
// that meets an address that is none ends with words that say where, and not the process.

#include "state.h"

#include <algorithm>
#include <atomic>
#include <csetjmp>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

namespace emulated {

// With fewer threads in all, others would come too late.
constexpr u64 WORTH = 4096;

struct Job {
    const Launch *launch;
    u64 blocks;
    std::atomic<u64> next{0};
    std::atomic<bool> failed{false};
};

// What the running thread goes back to where a kernel fails, and what it runs.
static thread_local sigjmp_buf *escape = nullptr;
static thread_local const Worker *running = nullptr;
static struct sigaction before_segv, before_bus;

static u64 stack_pointer(const void *machine) {
#ifdef __x86_64__
    return u64(static_cast<const ucontext_t *>(machine)->uc_mcontext.gregs[REG_RSP]);
#else
    return machine == nullptr;
#endif
}

// The stack of a signal is short, too short for a stream's buffer.
static void say_where(const void *address, const void *machine) {
    char words[256];
    int length = 0;
    if (running == nullptr) {
        length = snprintf(words, sizeof words, "emulated: a copy or fill: no memory at %p\n", address);
    } else {
        const Fiber *fiber = running->stacks.at(stack_pointer(machine));
        const Point block = running->block.at, thread = fiber == nullptr ? Point{0, 0, 0} : fiber->thread;
        length = snprintf(
            words, sizeof words, "emulated: kernel %s, block (%u, %u, %u), thread (%u, %u, %u): no memory at %p\n",
            running->block.launch->entry->name, block.x, block.y, block.z, thread.x, thread.y, thread.z, address);
    }
    if (length > 0 && write(2, words, std::min(size_t(length), sizeof words - 1)) < 0) abort();
}

static void on_fault(int signal, siginfo_t *info, void *machine) {
    if (escape != nullptr) {
        sigjmp_buf &back = *escape;
        escape = nullptr;
        say_where(info->si_addr, machine);
        sigset_t both;
        sigemptyset(&both);
        sigaddset(&both, SIGSEGV);
        sigaddset(&both, SIGBUS);
        pthread_sigmask(SIG_UNBLOCK, &both, nullptr);
        siglongjmp(back, 1);
    }
    const struct sigaction &before = signal == SIGSEGV ? before_segv : before_bus;
    if (before.sa_flags & SA_SIGINFO) return before.sa_sigaction(signal, info, machine);
    sigaction(signal, &before, nullptr);
}

static void watch_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGSEGV, &action, &before_segv);
        sigaction(SIGBUS, &action, &before_bus);
    });
}

static std::mutex workers_mutex;

static std::vector<Worker *> &workers() {
    static auto &free = *new std::vector<Worker *>;
    return free;
}

static Worker *take_worker() {
    std::lock_guard<std::mutex> lock(workers_mutex);
    if (workers().empty()) return new Worker;
    Worker *worker = workers().back();
    workers().pop_back();
    return worker;
}

static void give_worker(Worker *worker) {
    std::lock_guard<std::mutex> lock(workers_mutex);
    workers().push_back(worker);
}

static Point point_of(u64 index, Point grid) {
    return {u32(index % grid.x), u32(index / grid.x % grid.y), u32(index / grid.x / grid.y)};
}

static void run_blocks(Job &job, Worker &worker) {
    const Launch &launch = *job.launch;
    for (u64 done = job.next++; done < job.blocks && !job.failed; done = job.next++) {
        launch.entry->run(launch, point_of(job.blocks - 1 - done, launch.grid), worker);
    }
}

// Works at a job until it is done. A worker whose kernel failed is in no state to go on.
static void work_at(Job &job) {
    Worker *volatile worker = take_worker();
    sigjmp_buf *volatile outer = escape;
    sigjmp_buf here;
    running = worker;
    escape = &here;
    if (sigsetjmp(here, 0) == 0) {
        run_blocks(job, *worker);
        give_worker(worker);
    } else {
        job.failed = true;
        delete worker;
    }
    escape = outer;
    running = nullptr;
}

bool survives(const Work &work) {
    watch_faults();
    sigjmp_buf here;
    escape = &here;
    const bool fine = sigsetjmp(here, 0) == 0;
    if (fine) work();
    escape = nullptr;
    return fine;
}

// The other threads: they wait for a job, of which there is one at a time.
struct Crew {
    std::mutex mutex;
    std::condition_variable changed;
    std::mutex busy;
    Job *job = nullptr;
    u64 number = 0;
    u32 working = 0;
    u32 size = 0;
};

static void serve(Crew &crew) {
    char *stack = static_cast<char *>(malloc(1 << 16));
    const stack_t own = {stack, 0, 1 << 16};
    sigaltstack(&own, nullptr);
    u64 seen = 0;
    for (std::unique_lock<std::mutex> lock(crew.mutex);;) {
        crew.changed.wait(lock, [&] { return crew.job != nullptr && crew.number != seen; });
        seen = crew.number;
        Job &job = *crew.job;
        crew.working++;
        lock.unlock();
        work_at(job);
        lock.lock();
        crew.working--;
        crew.changed.notify_all();
    }
}

static Crew &crew() {
    static Crew &made = *[] {
        Crew *made = new Crew;
        const char *threads = getenv("EMULATED_THREADS");
        const u32 cores = threads ? u32(atoi(threads)) : std::min(8u, std::thread::hardware_concurrency());
        for (made->size = 1; made->size < cores; made->size++) std::thread(serve, std::ref(*made)).detach();
        return made;
    }();
    return made;
}

static void run_together(Crew &crew, Job &job) {
    {
        std::lock_guard<std::mutex> lock(crew.mutex);
        crew.job = &job;
        crew.number++;
    }
    crew.changed.notify_all();
    work_at(job);
    std::unique_lock<std::mutex> lock(crew.mutex);
    crew.job = nullptr;
    crew.changed.wait(lock, [&] { return crew.working == 0; });
}

bool run_launch(const Launch &launch) {
    Job job;
    job.launch = &launch;
    job.blocks = u64(launch.grid.x) * launch.grid.y * launch.grid.z;
    const u64 threads = job.blocks * launch.block.x * launch.block.y * launch.block.z;
    Crew &others = crew();
    const bool together = others.size > 1 && job.blocks > 1 && threads >= WORTH && others.busy.try_lock();
    if (together) {
        run_together(others, job);
        others.busy.unlock();
    } else {
        work_at(job);
    }
    return !job.failed;
}

}  // namespace emulated
