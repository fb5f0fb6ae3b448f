// Source text to a shared object that holds its kernels for a processor. Objects are kept in a folder, each named by all
// that went into it, so that a text is compiled once: EMULATED_CACHE, or one among temporary files. EMULATED_CXX names the
// C++ compiler.

#pragma once

#include "options.h"

#include <string>
#include <utility>
#include <vector>

namespace emulated {

struct Source {
    std::string name, text;
    // Names as they are included, and texts.
    std::vector<std::pair<std::string, std::string>> headers;
};

struct Compiled {
    bool made = false;
    std::string object, log;
};

Compiled compile(const Source &source, const Options &options);

}  // namespace emulated
