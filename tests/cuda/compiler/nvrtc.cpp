// The interface of NVRTC 13.0. What it calls a cubin is a shared object (see compile.h), and its PTX the same.

#include "../driver/settings.h"
#include "compile.h"

#include <mutex>
#include <string.h>

namespace emulated {

enum Code : int {
    DONE = 0,
    CREATION_FAILURE = 2,
    INVALID_INPUT = 3,
    INVALID_PROGRAM = 4,
    INVALID_OPTION = 5,
    COMPILATION = 6,
};

struct Program {
    Source source;
    Compiled compiled;
    bool is_real = false;
};

constexpr int ARCHS[] = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121};

// What the settings have for the next call of a function.
static Code refused(const char *name) {
    static std::mutex &mutex = *new std::mutex;
    static Settings &settings = *new Settings(settings_of_environment());
    std::lock_guard<std::mutex> lock(mutex);
    for (Fault &fault : settings.faults) {
        if (fault.function == name && fault.calls_before != ~0ull && fault.calls_before-- == 0) return Code(fault.code);
    }
    return DONE;
}

static Code size_of(const Program *program, const std::string &text, size_t *size) {
    if (program == nullptr) return INVALID_PROGRAM;
    *size = text.size() + 1;
    return DONE;
}

static Code copy_of(const Program *program, const std::string &text, char *to) {
    if (program == nullptr) return INVALID_PROGRAM;
    memcpy(to, text.c_str(), text.size() + 1);
    return DONE;
}

static const char *words_of(int code) {
    constexpr const char *WORDS[] = {
        "NVRTC_SUCCESS",
        "NVRTC_ERROR_OUT_OF_MEMORY",
        "NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
        "NVRTC_ERROR_INVALID_INPUT",
        "NVRTC_ERROR_INVALID_PROGRAM",
        "NVRTC_ERROR_INVALID_OPTION",
        "NVRTC_ERROR_COMPILATION",
        "NVRTC_ERROR_BUILTIN_OPERATION_FAILURE",
    };
    return code >= 0 && code < 8 ? WORDS[code] : "NVRTC_ERROR unknown";
}

}  // namespace emulated

using namespace emulated;

#define API extern "C" __attribute__((visibility("default"))) emulated::Code

API nvrtcVersion(int *major, int *minor) {
    *major = 13;
    *minor = 0;
    return DONE;
}

extern "C" __attribute__((visibility("default"))) const char *nvrtcGetErrorString(int code) {
    return words_of(code);
}

API nvrtcGetNumSupportedArchs(int *count) {
    *count = sizeof ARCHS / sizeof *ARCHS;
    return DONE;
}

API nvrtcGetSupportedArchs(int *archs) {
    memcpy(archs, ARCHS, sizeof ARCHS);
    return DONE;
}

API nvrtcCreateProgram(Program **made, const char *text, const char *name, int count, const char *const *headers,
                       const char *const *names) {
    if (made == nullptr || text == nullptr || count < 0) return INVALID_INPUT;
    const Code fault = refused(__func__);
    if (fault != DONE) return fault;
    auto *program = new Program;
    program->source.name = name != nullptr && *name != 0 ? name : "default_program.cu";
    program->source.text = text;
    for (int i = 0; i < count; i++) program->source.headers.emplace_back(names[i], headers[i]);
    *made = program;
    return DONE;
}

API nvrtcDestroyProgram(Program **program) {
    if (program == nullptr || *program == nullptr) return INVALID_PROGRAM;
    delete *program;
    *program = nullptr;
    return DONE;
}

API nvrtcCompileProgram(Program *program, int count, const char *const *texts) {
    if (program == nullptr) return INVALID_PROGRAM;
    const Code fault = refused(__func__);
    if (fault != DONE) return fault;
    const Options options = options_of(count, texts);
    program->compiled = Compiled();
    program->compiled.log = "invalid value for option: " + options.refused;
    if (!options.refused.empty()) return INVALID_OPTION;
    program->compiled = compile(program->source, options);
    program->is_real = !options.is_virtual;
    return program->compiled.made ? DONE : COMPILATION;
}

API nvrtcGetProgramLogSize(Program *program, size_t *size) {
    return program == nullptr ? INVALID_PROGRAM : size_of(program, program->compiled.log, size);
}

API nvrtcGetProgramLog(Program *program, char *log) {
    return program == nullptr ? INVALID_PROGRAM : copy_of(program, program->compiled.log, log);
}

API nvrtcGetPTXSize(Program *program, size_t *size) {
    return program == nullptr || !program->compiled.made ? INVALID_PROGRAM
                                                         : size_of(program, program->compiled.object, size);
}

API nvrtcGetPTX(Program *program, char *ptx) {
    return program == nullptr || !program->compiled.made ? INVALID_PROGRAM
                                                         : copy_of(program, program->compiled.object, ptx);
}

// There is none of what was compiled for a virtual architecture.
API nvrtcGetCUBINSize(Program *program, size_t *size) {
    if (program == nullptr || !program->compiled.made) return INVALID_PROGRAM;
    *size = program->is_real ? program->compiled.object.size() : 0;
    return DONE;
}

API nvrtcGetCUBIN(Program *program, char *cubin) {
    if (program == nullptr || !program->compiled.made || !program->is_real) return INVALID_PROGRAM;
    memcpy(cubin, program->compiled.object.data(), program->compiled.object.size());
    return DONE;
}
