// What the emulated machine is, and what is to go wrong on it, as the environment says: in EMULATED_CUDA
//     devices=2,memory=512MiB,arch=90,fail=cuMemAlloc_v2:3:2,lost_after=100
// the devices, what each holds, their compute capability, the nth call of a function that fails with a code (given as often
// as wanted), and after how many launches the device that gets the next is lost; with `guard=1`, launches end that touch
// what lies beyond an allocation or was freed (see ground.h). EMULATED_ORDER: `late` (work is done when
// its end is asked for), `drawn` (some of other streams before it), `eager` (at once). EMULATED_SEED: of what is drawn.

#pragma once

#include "../numbers.h"

#include <string>
#include <vector>

namespace emulated {

// Codes of the driver's interface.
enum Result : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_PTX = 218,
    FILE_NOT_FOUND = 301,
    OPERATING_SYSTEM = 304,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    PEER_ACCESS_ALREADY_ENABLED = 704,
    PEER_ACCESS_NOT_ENABLED = 705,
    CONTEXT_IS_DESTROYED = 709,
    HOST_MEMORY_ALREADY_REGISTERED = 712,
    HOST_MEMORY_NOT_REGISTERED = 713,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_MERGE = 902,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_UNJOINED = 904,
    CAPTURE_ISOLATION = 905,
    CAPTURE_IMPLICIT = 906,
    CAPTURED_EVENT = 907,
    CAPTURE_WRONG_THREAD = 908,
};

enum class Order { LATE, DRAWN, EAGER };

struct Fault {
    std::string function;
    u64 calls_before;
    Result code;
};

struct Settings {
    u32 devices = 1, arch = 90;
    u64 memory = 4ull << 30;
    std::vector<Fault> faults;
    u64 lost_after = ~0ull;
    bool guarded = false;
    Order order = Order::LATE;
    u64 seed = 1;
};

// What the environment says; ends the process where that is not understood.
Settings settings_of_environment();

}  // namespace emulated
