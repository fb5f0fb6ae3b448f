// See options.h.

#include "options.h"

#include <stdlib.h>

namespace emulated {

// Options that say nothing to a processor.
static const char *const IGNORED[] = {
    "std", "fmad", "ftz", "prec-div", "prec-sqrt", "use_fast_math", "lineinfo", "generate-line-info", "device-debug",
    "G", "maxrregcount", "restrict", "extra-device-vectorization", "default-device",
    "device-as-default-execution-space", "w", "disable-warnings", "diag-suppress", "diag-error", "diag-warn", "dopt",
    "ptxas-options", "minimal", "no-cache", "split-compile", "relocatable-device-code", "rdc", "time",
    "no-source-include", "modify-stack-limit", "fdevice-syntax-only",
};

struct Option {
    std::string name, value;
    bool has_value;
};

static Option split(const std::string &text) {
    const size_t begin = text.compare(0, 2, "--") == 0 ? 2 : 1, equals = text.find('=');
    if (text.compare(0, 2, "-D") == 0 || text.compare(0, 2, "-I") == 0 || text.compare(0, 2, "-U") == 0) {
        return {text.substr(1, 1), text.substr(2), text.size() > 2};
    }
    if (equals == std::string::npos) return {text.substr(begin), "", false};
    return {text.substr(begin, equals - begin), text.substr(equals + 1), true};
}

static bool set_arch(Options &options, const std::string &value) {
    const bool is_virtual = value.compare(0, 8, "compute_") == 0;
    if (!is_virtual && value.compare(0, 3, "sm_") != 0) return false;
    options.is_virtual = is_virtual;
    options.arch = unsigned(atoi(value.c_str() + (is_virtual ? 8 : 3)));
    return options.arch >= 75 && options.arch <= 121;
}

static bool is_ignored(const std::string &name) {
    for (const char *known : IGNORED) {
        if (name == known) return true;
    }
    return false;
}

static bool take(Options &options, const Option &option) {
    if (option.name == "gpu-architecture" || option.name == "arch") return set_arch(options, option.value);
    if (option.name == "D" || option.name == "define-macro") {
        options.passed.push_back("-D" + option.value);
    } else if (option.name == "U" || option.name == "undefine-macro") {
        options.passed.push_back("-U" + option.value);
    } else if (option.name == "I" || option.name == "include-path") {
        options.passed.push_back("-I" + option.value);
        options.folders.push_back(option.value);
    } else {
        return is_ignored(option.name);
    }
    return true;
}

// A value may be a text of its own.
static bool wants_value(const Option &option) {
    const std::string &name = option.name;
    for (const char *one : {"gpu-architecture", "arch", "D", "define-macro", "I", "include-path", "U", "undefine-macro"}) {
        if (name == one) return !option.has_value;
    }
    return false;
}

Options options_of(int count, const char *const *texts) {
    Options options;
    for (int i = 0; i < count; i++) {
        const std::string text = texts[i];
        Option option = split(text);
        if (wants_value(option) && i + 1 < count) option.value = texts[++i];
        if (text[0] != '-' || !take(options, option)) options.refused = text;
    }
    return options;
}

}  // namespace emulated
