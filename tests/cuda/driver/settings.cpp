// See settings.h.

#include "settings.h"

#include <stdio.h>
#include <stdlib.h>

namespace emulated {

[[noreturn]] static void unclear(const std::string &what) {
    fprintf(stderr, "emulated: EMULATED_CUDA, EMULATED_ORDER or EMULATED_SEED: \"%s\" is not understood\n",
            what.c_str());
    exit(2);
}

static u64 number(const std::string &text) {
    char *end = nullptr;
    const u64 value = strtoull(text.c_str(), &end, 10);
    const std::string unit = end;
    if (end == text.c_str()) unclear(text);
    if (unit.empty()) return value;
    if (unit == "KiB") return value << 10;
    if (unit == "MiB") return value << 20;
    if (unit == "GiB") return value << 30;
    unclear(text);
}

// function:nth:code
static Fault fault(const std::string &text) {
    const size_t first = text.find(':'), second = text.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) unclear(text);
    const u64 nth = number(text.substr(first + 1, second - first - 1));
    if (nth == 0) unclear(text);
    return {text.substr(0, first), nth - 1, Result(number(text.substr(second + 1)))};
}

static void set(Settings &settings, const std::string &key, const std::string &value) {
    if (key == "devices") {
        settings.devices = u32(number(value));
    } else if (key == "memory") {
        settings.memory = number(value);
    } else if (key == "arch") {
        settings.arch = u32(number(value));
    } else if (key == "fail") {
        settings.faults.push_back(fault(value));
    } else if (key == "guard") {
        settings.guarded = number(value) != 0;
    } else if (key == "lost_after") {
        settings.lost_after = number(value);
    } else {
        unclear(key);
    }
}

static std::string environment(const char *name) {
    const char *value = getenv(name);
    return value == nullptr ? "" : value;
}

static Order order(const std::string &text) {
    if (text.empty() || text == "late") return Order::LATE;
    if (text == "drawn") return Order::DRAWN;
    if (text == "eager") return Order::EAGER;
    unclear(text);
}

Settings settings_of_environment() {
    Settings settings;
    const std::string text = environment("EMULATED_CUDA");
    for (size_t at = 0; at < text.size();) {
        size_t end = text.find(',', at);
        if (end == std::string::npos) end = text.size();
        const std::string pair = text.substr(at, end - at);
        const size_t equals = pair.find('=');
        if (equals == std::string::npos) unclear(pair);
        set(settings, pair.substr(0, equals), pair.substr(equals + 1));
        at = end + 1;
    }
    settings.order = order(environment("EMULATED_ORDER"));
    const std::string seed = environment("EMULATED_SEED");
    if (!seed.empty()) settings.seed = number(seed);
    return settings;
}

}  // namespace emulated
