// See compile.h.

#include "compile.h"

#include <algorithm>
#include <dlfcn.h>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <spawn.h>
#include <sstream>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

namespace emulated {

namespace fs = std::filesystem;

static std::string read(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

static bool write(const fs::path &path, const std::string &text) {
    std::error_code ignored;
    fs::create_directories(path.parent_path(), ignored);
    std::ofstream file(path, std::ios::binary);
    file << text;
    return bool(file.flush());
}

// Where `emulated.h` lies: beside this library.
static fs::path own_headers() {
    Dl_info info;
    dladdr(reinterpret_cast<void *>(own_headers), &info);
    return fs::absolute(info.dli_fname).parent_path() / "include";
}

static std::string environment(const char *name, const std::string &otherwise) {
    const char *value = getenv(name);
    return value != nullptr && *value != 0 ? value : otherwise;
}

static std::string temporary() {
    return environment("TMPDIR", "/tmp");
}

static fs::path cache() {
    return environment("EMULATED_CACHE", temporary() + "/emulated-cuda-" + std::to_string(getuid()));
}

static std::vector<std::string> flags(const Options &options) {
    std::vector<std::string> all = {"-x",
                                    "c++",
                                    "-std=c++17",
                                    "-O1",
                                    "-g0",
                                    "-ffp-contract=off",
                                    "-fno-math-errno",
                                    "-fno-exceptions",
                                    "-fno-gnu-unique",
                                    "-fvisibility=hidden",
                                    "-fPIC",
                                    "-shared",
                                    "-w",
                                    "-DEMULATED",
                                    "-D_GLIBCXX_INCLUDE_NEXT_C_HEADERS"};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) all.push_back("-march=x86-64-v3");
    all.push_back("-D__CUDA_ARCH__=" + std::to_string(options.arch * 10));
    all.insert(all.end(), options.passed.begin(), options.passed.end());
    return all;
}

// Two sums of 64 bits over all that is added: enough to name what never meets an enemy.
class Name {
  public:
    void add(const std::string &text) {
        step(text.size());
        for (const char letter : text) step(static_cast<unsigned char>(letter));
    }

    std::string text() const {
        char name[40];
        snprintf(name, sizeof name, "%016llx%016llx", one_, other_);
        return name;
    }

  private:
    void step(unsigned long long value) {
        one_ = (one_ ^ value) * 0x100000001b3;
        other_ = (other_ + value) * 0x9e3779b97f4a7c15;
        other_ ^= other_ >> 29;
    }

    unsigned long long one_ = 0xcbf29ce484222325, other_ = 1;
};

static void add_folder(Name &name, const fs::path &folder) {
    std::vector<fs::path> files;
    std::error_code error;
    for (fs::recursive_directory_iterator at(folder, error), end; at != end && !error; at.increment(error)) {
        const std::string kind = at->path().extension();
        if (kind == ".h" || kind == ".cuh" || kind == ".cu") files.push_back(at->path());
    }
    std::sort(files.begin(), files.end());
    for (const fs::path &file : files) {
        name.add(file.filename());
        name.add(read(file));
    }
}

static std::string name_of(const Source &source, const Options &options) {
    Name name;
    name.add(source.name);
    name.add(source.text);
    for (const auto &header : source.headers) {
        name.add(header.first);
        name.add(header.second);
    }
    for (const std::string &flag : flags(options)) name.add(flag);
    name.add(options.is_virtual ? "virtual" : "real");
    for (const std::string &folder : options.folders) add_folder(name, folder);
    static const std::string own = [] {
        Name headers;
        add_folder(headers, own_headers());
        headers.add(environment("EMULATED_CXX", "g++"));
        return headers.text();
    }();
    name.add(own);
    return name.text();
}

// The source, then what the loader asks the object for.
static bool lay_out(const fs::path &folder, const Source &source, const Options &options) {
    bool done = true;
    for (const auto &header : source.headers) done &= write(folder / header.first, header.second);
    std::string text =
        source.text +
        "\nextern \"C\" __attribute__((visibility(\"default\"), used)) const unsigned emulated_arch[2] = {";
    text += std::to_string(options.arch) + ", " + (options.is_virtual ? "1" : "0") + "};\n";
    return done && write(folder / source.name, text);
}

// Runs a command with what it says in a file; whether it ended well.
static bool run(const std::vector<std::string> &words, const fs::path &log) {
    std::vector<char *> arguments;
    for (const std::string &word : words) arguments.push_back(const_cast<char *>(word.c_str()));
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    pid_t process = 0;
    int status = -1;
    const bool began = posix_spawnp(&process, arguments[0], &actions, nullptr, arguments.data(), environ) == 0;
    posix_spawn_file_actions_destroy(&actions);
    return began && waitpid(process, &status, 0) == process && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static std::vector<std::string> command(const fs::path &folder, const Source &source, const Options &options) {
    std::vector<std::string> words = {environment("EMULATED_CXX", "g++")};
    for (const std::string &flag : flags(options)) words.push_back(flag);
    words.insert(words.end(), {"-I" + folder.string(), "-I" + own_headers().string(), folder / source.name, "-o",
                               folder / "object.so"});
    return words;
}

static Compiled make(const Source &source, const Options &options, const fs::path &kept) {
    Compiled compiled;
    std::string folder = temporary() + "/emulated-cuda-XXXXXX";
    if (mkdtemp(&folder[0]) == nullptr) return compiled.log = "no temporary folder", compiled;
    compiled.made = lay_out(folder, source, options) && run(command(folder, source, options), folder + "/log");
    compiled.log = read(folder + "/log");
    std::error_code ignored;
    if (compiled.made) {
        compiled.object = read(folder + "/object.so");
        const fs::path beside = kept.string() + "." + fs::path(folder).filename().string();
        if (write(beside, compiled.object)) fs::rename(beside, kept, ignored);
    }
    fs::remove_all(folder, ignored);
    return compiled;
}

// One thread makes what several want.
static std::shared_ptr<std::mutex> lock_of(const std::string &name) {
    static std::mutex &mutex = *new std::mutex;
    static auto &locks = *new std::map<std::string, std::shared_ptr<std::mutex>>;
    std::lock_guard<std::mutex> lock(mutex);
    std::shared_ptr<std::mutex> &found = locks[name];
    if (found == nullptr) found = std::make_shared<std::mutex>();
    return found;
}

Compiled compile(const Source &source, const Options &options) {
    const std::string name = name_of(source, options);
    const fs::path kept = cache() / (name + ".so");
    const std::shared_ptr<std::mutex> one = lock_of(name);
    std::lock_guard<std::mutex> lock(*one);
    std::error_code ignored;
    if (fs::exists(kept, ignored)) {
        Compiled compiled{true, read(kept), ""};
        if (!compiled.object.empty()) return compiled;
    }
    return make(source, options, kept);
}

}  // namespace emulated
