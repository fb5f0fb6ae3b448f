// Devices and their contexts, and how every call begins: it is counted, and fails where the settings or an earlier failure
// of its context say so. A device's numbers are those of its compute capability.

#include "state.h"

namespace emulated {

State &state() {
    static State &all = *new State;
    return all;
}

Context *&current() {
    static thread_local Context *context = nullptr;
    return context;
}

u32 draw(u32 below) {
    u64 &random = state().random;
    random = random * 6364136223846793005u + 1442695040888963407u;
    return below == 0 ? 0 : u32(random >> 33) % below;
}

static bool is_sticky(Result code) {
    constexpr int STICKY[] = {214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719};
    for (const int one : STICKY) {
        if (code == one) return true;
    }
    return false;
}

Result begin(const char *name) {
    for (Fault &fault : state().settings.faults) {
        if (fault.function != name || fault.calls_before == ~0ull || fault.calls_before-- != 0) continue;
        if (is_sticky(fault.code) && current() != nullptr) current()->error = fault.code;
        return fault.code;
    }
    return state().devices.empty() ? NOT_INITIALIZED : SUCCESS;
}

// What an architecture has: shared memory of a block at most and of a multiprocessor, threads and blocks of one, how many.
struct Shape {
    u32 arch, shared_block, shared_all, threads, blocks, processors;
};

static Shape shape() {
    constexpr Shape SHAPES[] = {
        {75, 64, 64, 1024, 16, 40},     {80, 163, 164, 2048, 32, 108},  {86, 99, 100, 1536, 16, 84},
        {89, 99, 100, 1536, 24, 128},   {90, 227, 228, 2048, 32, 132},  {100, 227, 228, 2048, 32, 148},
        {120, 99, 100, 1536, 24, 170},
    };
    Shape best = SHAPES[0];
    for (const Shape &shape : SHAPES) {
        if (shape.arch <= state().settings.arch) best = shape;
    }
    return best;
}

int attribute(u32 which, u32 device) {
    const u32 arch = state().settings.arch;
    switch (which) {
        case 1: return 1024;                          // threads of a block
        case 2: case 3: return 1024;                  // its dimensions
        case 4: return 64;
        case 5: return 2147483647;                    // dimensions of a grid
        case 6: case 7: return 65535;
        case 8: return 48 << 10;                      // shared memory of a block
        case 9: return 64 << 10;                      // constant memory
        case 10: return 32;                           // lanes of a warp
        case 12: case 82: return 65536;               // registers of a block, of a multiprocessor
        case 13: return 1000000;                      // clock, kHz
        case 14: return 512;                          // alignment of textures
        case 15: case 19: case 31: case 41: return 1; // copies and kernels beside kernels, mapped memory, one address space
        case 16: return shape().processors;
        case 33: return int(device) + 1;              // PCI bus
        case 36: return 1000000;                      // memory clock, kHz
        case 37: return 512;                          // bits of its bus
        case 38: return 32 << 20;                     // L2 cache
        case 39: return shape().threads;
        case 40: return 2;                            // engines for copies
        case 75: return int(arch / 10);
        case 76: return int(arch % 10);
        case 78: case 90: case 91: case 99: case 102: return 1;
        case 81: return int(shape().shared_all) << 10;
        case 97: return int(shape().shared_block) << 10;
        case 106: return int(shape().blocks);
        case 111: return arch >= 80 ? 1024 : 0;       // shared memory of a block that is the driver's
        case 115: return 1;                           // memory pools
        default: return 0;
    }
}

static Result primary(u32 device, Context **made) {
    Device &of = state().devices[device];
    if (of.primary == nullptr) {
        of.primary = known(new Context);
        of.primary->device = device;
        of.primary->legacy.context = of.primary;
        of.primary->legacy.blocking = true;
    }
    of.retained++;
    *made = of.primary;
    return SUCCESS;
}

// A context ends with its last holder: its work is done, its streams and memory are no more.
static Result release(Lock &lock, u32 device) {
    Device &of = state().devices[device];
    if (of.retained == 0) return INVALID_CONTEXT;
    if (--of.retained != 0) return SUCCESS;
    Context *context = of.primary;
    complete_context(lock, *context);
    of.primary = nullptr;
    release_all(*context);
    for (const Stream *stream : context->streams) forget(stream);
    forget(context);
    return SUCCESS;
}

template <typename F>
static Result on_device(const char *name, int device, F body) {
    return plain(name, [&](Lock &lock) -> Result {
        return device < 0 || u64(device) >= state().devices.size() ? INVALID_DEVICE : body(lock);
    });
}

}  // namespace emulated

using namespace emulated;

// The environment is read anew where no context is held.
API cuInit(unsigned flags) {
    State &all = state();
    Lock lock(all.mutex);
    bool held = false;
    for (const Device &device : all.devices) held |= device.retained != 0;
    if (!held) {
        all.settings = settings_of_environment();
        all.random = all.settings.seed;
        all.launches = 0;
        all.devices.assign(all.settings.devices, Device());
        for (Device &device : all.devices) device.total = all.settings.memory;
    }
    if (all.devices.empty()) return NO_DEVICE;
    const Result refused = begin(__func__);
    return refused != SUCCESS ? refused : flags == 0 ? SUCCESS : INVALID_VALUE;
}

API cuDriverGetVersion(int *version) {
    *version = 13000;
    return SUCCESS;
}

API cuDeviceGetCount(int *count) {
    return plain(__func__, [&](Lock &) {
        *count = int(state().devices.size());
        return SUCCESS;
    });
}

API cuDeviceGet(int *device, int ordinal) {
    return on_device(__func__, ordinal, [&](Lock &) {
        *device = ordinal;
        return SUCCESS;
    });
}

API cuDeviceGetName(char *name, int room, int device) {
    return on_device(__func__, device, [&](Lock &) {
        snprintf(name, size_t(room), "Emulated sm_%u", state().settings.arch);
        return SUCCESS;
    });
}

static Result put_uuid(const char *name, char *uuid, int device) {
    return on_device(name, device, [&](Lock &) {
        memcpy(uuid, "emulated device", 15);
        uuid[15] = char('0' + device);
        return SUCCESS;
    });
}

API cuDeviceGetUuid(char *uuid, int device) {
    return put_uuid(__func__, uuid, device);
}

API cuDeviceGetUuid_v2(char *uuid, int device) {
    return put_uuid(__func__, uuid, device);
}

API cuDeviceGetPCIBusId(char *name, int room, int device) {
    return on_device(__func__, device, [&](Lock &) {
        snprintf(name, size_t(room), "0000:%02x:00.0", unsigned(device) + 1);
        return SUCCESS;
    });
}

API cuDeviceTotalMem_v2(size_t *bytes, int device) {
    return on_device(__func__, device, [&](Lock &) {
        *bytes = state().devices[u32(device)].total;
        return SUCCESS;
    });
}

API cuDeviceGetAttribute(int *value, int which, int device) {
    return on_device(__func__, device, [&](Lock &) {
        if (which <= 0 || which >= 148) return INVALID_VALUE;
        *value = attribute(u32(which), u32(device));
        return SUCCESS;
    });
}

API cuDeviceCanAccessPeer(int *can, int device, int peer) {
    return on_device(__func__, device, [&](Lock &) {
        if (peer < 0 || u64(peer) >= state().devices.size()) return INVALID_DEVICE;
        *can = device != peer;
        return SUCCESS;
    });
}

API cuDevicePrimaryCtxRetain(Context **context, int device) {
    return on_device(__func__, device, [&](Lock &) { return primary(u32(device), context); });
}

API cuDevicePrimaryCtxRelease_v2(int device) {
    return on_device(__func__, device, [&](Lock &lock) { return release(lock, u32(device)); });
}

API cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    return on_device(__func__, device, [&](Lock &) {
        *flags = 0;
        *active = state().devices[u32(device)].retained != 0;
        return SUCCESS;
    });
}

API cuCtxSetCurrent(Context *context) {
    return plain(__func__, [&](Lock &) {
        if (context != nullptr && !is_known(context)) return INVALID_CONTEXT;
        current() = context;
        return SUCCESS;
    });
}

API cuCtxGetCurrent(Context **context) {
    return plain(__func__, [&](Lock &) {
        *context = current();
        return SUCCESS;
    });
}

API cuCtxGetDevice(int *device) {
    return inside(__func__, [&](Context &context, Lock &) {
        *device = int(context.device);
        return SUCCESS;
    });
}

API cuCtxSetFlags(unsigned) {
    return inside(__func__, [&](Context &, Lock &) { return SUCCESS; });
}

API cuCtxSynchronize() {
    return inside(__func__, [&](Context &context, Lock &lock) {
        if (disturbs(context)) return CAPTURE_UNSUPPORTED;
        complete_context(lock, context);
        return SUCCESS;
    });
}

API cuCtxEnablePeerAccess(Context *peer, unsigned) {
    return inside(__func__, [&](Context &context, Lock &) {
        if (!is_known(peer) || peer == &context) return INVALID_CONTEXT;
        return context.peers.insert(peer->device).second ? SUCCESS : PEER_ACCESS_ALREADY_ENABLED;
    });
}

API cuCtxDisablePeerAccess(Context *peer) {
    return inside(__func__, [&](Context &context, Lock &) {
        if (!is_known(peer)) return INVALID_CONTEXT;
        return context.peers.erase(peer->device) != 0 ? SUCCESS : PEER_ACCESS_NOT_ENABLED;
    });
}

API cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    return inside(__func__, [&](Context &, Lock &) {
        *least = 0;
        *greatest = -5;
        return SUCCESS;
    });
}
