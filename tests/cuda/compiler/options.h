// What a program is compiled with: the options of the compiler that is emulated, as those of the one that does the work.

#pragma once

#include <string>
#include <vector>

namespace emulated {

struct Options {
    unsigned arch = 75;
    // Whether code for the device is still to be made from it.
    bool is_virtual = true;
    // Definitions and folders, as the C++ compiler takes them, and the folders alone.
    std::vector<std::string> passed, folders;
    // The option that is none, if there is one.
    std::string refused;
};

Options options_of(int count, const char *const *texts);

}  // namespace emulated
