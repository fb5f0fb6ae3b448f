// Pools of memory: each device has one, which holds nothing back, so there is nothing to set.

#include "state.h"

namespace emulated {

static Result pool_of(const char *name, void **pool, int device) {
    return plain(name, [&](Lock &) {
        if (device < 0 || u64(device) >= state().devices.size()) return INVALID_DEVICE;
        *pool = &state().devices[u32(device)];
        return SUCCESS;
    });
}

}  // namespace emulated

using namespace emulated;

API cuDeviceGetDefaultMemPool(void **pool, int device) {
    return pool_of(__func__, pool, device);
}

API cuDeviceGetMemPool(void **pool, int device) {
    return pool_of(__func__, pool, device);
}

API cuMemPoolSetAttribute(void *pool, unsigned, void *) {
    return plain(__func__, [&](Lock &) { return pool != nullptr ? SUCCESS : INVALID_VALUE; });
}

API cuMemPoolTrimTo(void *pool, size_t) {
    return plain(__func__, [&](Lock &) { return pool != nullptr ? SUCCESS : INVALID_VALUE; });
}
