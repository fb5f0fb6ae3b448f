// Modules are shared objects that the emulated compiler made; a function is an entry of one. A launch takes its parameters
// along when it is put into a stream. An image is opened once and stays: modules of the same bytes share it.

#include "state.h"

#include <algorithm>
#include <dlfcn.h>
#include <elf.h>
#include <unistd.h>

namespace emulated {

struct Image {
    void *object;
    u32 arch;
    bool is_virtual;
};

constexpr u32 SHARED = 48 << 10, THREADS = 1024;

// The bytes of a shared object end with the table of its sections.
static u64 length_of(const void *image) {
    const auto *header = static_cast<const Elf64_Ehdr *>(image);
    return header->e_shoff + u64(header->e_shnum) * header->e_shentsize;
}

static void *open_object(const std::string &bytes) {
    std::string name = (getenv("TMPDIR") ? getenv("TMPDIR") : std::string("/tmp")) + "/emulated-XXXXXX";
    const int file = mkstemp(&name[0]);
    if (file < 0) return nullptr;
    const bool written = write(file, bytes.data(), bytes.size()) == ssize_t(bytes.size());
    close(file);
    void *object = written ? dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
    if (object == nullptr) fprintf(stderr, "emulated: no module: %s\n", written ? dlerror() : name.c_str());
    unlink(name.c_str());
    return object;
}

static Result image_of(const void *data, Image **made) {
    static auto &images = *new std::map<std::string, Image>;
    if (memcmp(data, ELFMAG, SELFMAG) != 0) return INVALID_PTX;
    const std::string bytes(static_cast<const char *>(data), length_of(data));
    const auto found = images.find(bytes);
    if (found != images.end()) return *made = &found->second, SUCCESS;
    void *object = open_object(bytes);
    if (object == nullptr) return INVALID_IMAGE;
    const auto *arch = static_cast<const u32 *>(dlsym(object, "emulated_arch"));
    if (arch == nullptr) return INVALID_IMAGE;
    *made = &images.emplace(bytes, Image{object, arch[0], arch[1] != 0}).first->second;
    return SUCCESS;
}

// Code for a device runs on those of its major version that are no older; what is still to be translated, on all these.
static bool fits(const Image &image) {
    const u32 here = state().settings.arch;
    return image.arch <= here && (image.is_virtual || image.arch / 10 == here / 10);
}

static Result load(Context &context, const void *data, Module **made) {
    Image *image = nullptr;
    if (data == nullptr) return INVALID_VALUE;
    const Result result = image_of(data, &image);
    if (result != SUCCESS) return result;
    if (!fits(*image)) return NO_BINARY_FOR_GPU;
    *made = known(new Module{&context, image, {}});
    return SUCCESS;
}

static Result find(Module &module, const char *name, Function **found) {
    const std::string symbol = std::string("emulated_entry_") + name;
    const auto *entry = static_cast<const Entry *>(dlsym(module.image->object, symbol.c_str()));
    if (entry == nullptr) return NOT_FOUND;
    for (Function &function : module.functions) {
        if (function.entry == entry) return *found = &function, SUCCESS;
    }
    module.functions.push_back({&module, entry, SHARED, 0});
    *found = known(&module.functions.back());
    return SUCCESS;
}

static u32 most_shared(const Function &function) {
    return u32(attribute(97, function.module->context->device));
}

static bool is_possible(const Function &function, Point grid, Point block, u32 shared_bytes) {
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || block.x == 0 || block.y == 0 || block.z == 0) return false;
    if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) return false;
    if (block.x > 1024 || block.y > 1024 || block.z > 64) return false;
    const u64 threads = u64(block.x) * block.y * block.z;
    return threads <= THREADS && threads <= function.entry->threads && shared_bytes <= function.dynamic_shared;
}

// A launch and what it takes along.
struct Kept {
    Launch launch;
    Context *context;
    std::vector<u64> params;
};

static void run_kept(const Kept &kept) {
    State &all = state();
    Lock lock(all.mutex);
    if (kept.context->error != SUCCESS) return;
    if (all.launches++ == all.settings.lost_after) {
        kept.context->error = ILLEGAL_ADDRESS;
        return;
    }
    lock.unlock();
    if (run_launch(kept.launch)) return;
    lock.lock();
    kept.context->error = ILLEGAL_ADDRESS;
}

static u64 seed_of(Function &function) {
    u64 seed = state().settings.seed;
    for (const char *letter = function.entry->name; *letter != 0; letter++) seed = seed * 31 + u8(*letter);
    return seed * 0x9e3779b97f4a7c15u + function.launches++;
}

// Parameters come as addresses of each, of which there is one, or in a buffer that `extra` names.
static const void *params_of(void **params, void **extra) {
    if (params != nullptr) return params[0];
    return extra != nullptr && extra[0] == reinterpret_cast<void *>(1) ? extra[1] : nullptr;
}

static Result launch(Lock &lock, Context &context, Function *function, Stream *handle, Point grid, Point block,
                     u32 shared_bytes, const void *params) {
    Stream *stream = stream_of(context, handle);
    if (!is_known(function) || stream == nullptr || stream->context != &context) return INVALID_HANDLE;
    if (function->module->context != &context) return INVALID_HANDLE;
    if (params == nullptr || !is_possible(*function, grid, block, shared_bytes)) return INVALID_VALUE;
    auto kept = std::make_shared<Kept>();
    kept->params.resize(function->entry->params_bytes / 8 + 1);
    memcpy(kept->params.data(), params, function->entry->params_bytes);
    kept->context = &context;
    const u32 most = function->dynamic_shared > SHARED ? most_shared(*function) : SHARED;
    kept->launch = {function->entry, kept->params.data(), grid, block, shared_bytes, most, seed_of(*function)};
    return enqueue(lock, *stream, [kept] { run_kept(*kept); });
}

static Result get_attribute(const Function &function, u32 which, int *value) {
    const Image &image = *function.module->image;
    switch (which) {
        case 0: return *value = int(function.entry->threads), SUCCESS;
        case 4: return *value = 32, SUCCESS;
        case 5:
        case 6: return *value = int(image.arch), SUCCESS;
        case 8: return *value = int(function.dynamic_shared), SUCCESS;
        default: return *value = 0, which < 16 ? SUCCESS : INVALID_VALUE;
    }
}

static Result set_attribute(Function &function, u32 which, int value) {
    constexpr u32 DYNAMIC = 8, CARVEOUT = 9;
    if (which == CARVEOUT) return value >= -1 && value <= 100 ? SUCCESS : INVALID_VALUE;
    if (which != DYNAMIC || value < 0 || u32(value) > most_shared(function)) return INVALID_VALUE;
    function.dynamic_shared = u32(value);
    return SUCCESS;
}

// Blocks of a multiprocessor as threads, shared memory and its own number allow.
static Result occupancy(const Function &function, int threads, u64 shared_bytes, int *blocks) {
    const u32 device = function.module->context->device;
    const int most = attribute(106, device), all_threads = attribute(39, device), shared = attribute(81, device);
    if (threads <= 0) return INVALID_VALUE;
    const int by_threads = all_threads / ((threads + 31) / 32 * 32),
              by_shared = int(u64(shared) / (shared_bytes + 1024));
    *blocks = u32(threads) > function.entry->threads ? 0 : std::min(most, std::min(by_threads, by_shared));
    return SUCCESS;
}

template <typename F>
static Result with_function(const char *name, Function *function, F body) {
    return inside(name,
                  [&](Context &, Lock &) -> Result { return is_known(function) ? body(*function) : INVALID_HANDLE; });
}

}  // namespace emulated

using namespace emulated;

API cuModuleLoadData(Module **module, const void *image) {
    return inside(__func__, [&](Context &context, Lock &) { return load(context, image, module); });
}

API cuModuleLoadDataEx(Module **module, const void *image, unsigned, void *, void **) {
    return inside(__func__, [&](Context &context, Lock &) { return load(context, image, module); });
}

// Kernels under way are ended first.
API cuModuleUnload(Module *module) {
    return inside(__func__, [&](Context &context, Lock &lock) {
        if (!is_known(module)) return INVALID_HANDLE;
        complete_context(lock, context);
        for (const Function &function : module->functions) forget(&function);
        forget(module);
        delete module;
        return SUCCESS;
    });
}

API cuModuleGetFunction(Function **function, Module *module, const char *name) {
    return inside(__func__,
                  [&](Context &, Lock &) { return is_known(module) ? find(*module, name, function) : INVALID_HANDLE; });
}

API cuFuncGetAttribute(int *value, unsigned which, Function *function) {
    return with_function(__func__, function, [&](Function &of) { return get_attribute(of, which, value); });
}

API cuFuncSetAttribute(Function *function, unsigned which, int value) {
    return with_function(__func__, function, [&](Function &of) { return set_attribute(of, which, value); });
}

API cuFuncSetCacheConfig(Function *function, unsigned) {
    return with_function(__func__, function, [&](Function &) { return SUCCESS; });
}

API cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, Function *function, int threads, size_t shared_bytes) {
    return with_function(__func__, function,
                         [&](Function &of) { return occupancy(of, threads, shared_bytes, blocks); });
}

API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, Function *function, int threads,
                                                         size_t shared_bytes, unsigned) {
    return with_function(__func__, function,
                         [&](Function &of) { return occupancy(of, threads, shared_bytes, blocks); });
}

API cuLaunchKernel(Function *function, u32 grid_x, u32 grid_y, u32 grid_z, u32 x, u32 y, u32 z, u32 shared_bytes,
                   Stream *stream, void **params, void **extra) {
    return inside(__func__, [&](Context &context, Lock &lock) {
        return launch(lock, context, function, stream, {grid_x, grid_y, grid_z}, {x, y, z}, shared_bytes,
                      params_of(params, extra));
    });
}

struct Config {
    Point grid, block;
    u32 shared_bytes;
    Stream *stream;
    void *attributes;
    u32 attribute_count;
};

API cuLaunchKernelEx(const Config *config, Function *function, void **params, void **extra) {
    return inside(__func__, [&](Context &context, Lock &lock) {
        return launch(lock, context, function, config->stream, config->grid, config->block, config->shared_bytes,
                      params_of(params, extra));
    });
}
