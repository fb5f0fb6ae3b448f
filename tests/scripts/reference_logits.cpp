// Asks llama.cpp for reference values, on one CPU thread and with an f16 KV cache unless told otherwise.
//
//   reference_logits logits MODEL.gguf 1,2,3 OUT.npy [threads] [f16|f32|q8_0 cache] [batch|single] [auto|on|off flash]
//       writes the logits of every position, float32 [n_tokens, n_vocab]. The ids are decoded as ONE batch at
//       positions 0..n-1 of one sequence; "single" decodes token by token instead.
//   reference_logits greedy MODEL.gguf PROMPT COUNT
//       prints one JSON object: the prompt's ids (with BOS where the file asks for it), the COUNT ids that follow at
//       temperature 0, fewer where an end-of-generation token comes first (which is then the last id), and for each
//       of them by how much its logit exceeds the second best: where that is small, another engine may differ.
//
// Build it against a built llama.cpp; reference_logits.py beside this file does that.
#include "llama.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

[[noreturn]] void fail(const std::string & message) {
    std::fprintf(stderr, "reference_logits: %s\n", message.c_str());
    std::exit(1);
}

std::vector<llama_token> parse_ids(const char * text, int n_vocab) {
    std::vector<llama_token> ids;
    while (*text != '\0') {
        char * end = nullptr;
        const long id = std::strtol(text, &end, 10);
        if (end == text || id < 0 || id >= n_vocab) {
            fail("expected comma-separated token ids below " + std::to_string(n_vocab) + ", found \"" + text + "\"");
        }
        ids.push_back(static_cast<llama_token>(id));
        text = *end == ',' ? end + 1 : end;
    }
    if (ids.empty()) {
        fail("no token ids given");
    }
    return ids;
}

ggml_type parse_cache_type(const std::string & name) {
    if (name == "f16") return GGML_TYPE_F16;
    if (name == "f32") return GGML_TYPE_F32;
    if (name == "q8_0") return GGML_TYPE_Q8_0;
    fail("cache type must be f16, f32 or q8_0, found " + name);
}

llama_flash_attn_type parse_flash(const std::string & name) {
    if (name == "auto") return LLAMA_FLASH_ATTN_TYPE_AUTO;
    if (name == "on") return LLAMA_FLASH_ATTN_TYPE_ENABLED;
    if (name == "off") return LLAMA_FLASH_ATTN_TYPE_DISABLED;
    fail("flash attention must be auto, on or off, found " + name);
}

void write_npy(const char * path, const std::vector<float> & values, size_t rows, size_t columns) {
    std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + std::to_string(rows) + ", "
        + std::to_string(columns) + "), }";
    header.append(63 - (10 + header.size()) % 64, ' '); // magic + header + newline is a multiple of 64 bytes
    header.push_back('\n');
    const uint16_t length = static_cast<uint16_t>(header.size());
    std::FILE * file = std::fopen(path, "wb");
    if (file == nullptr) {
        fail(std::string("cannot create ") + path);
    }
    const bool ok = std::fwrite("\x93NUMPY\x01\x00", 1, 8, file) == 8
        && std::fwrite(&length, 2, 1, file) == 1
        && std::fwrite(header.data(), 1, header.size(), file) == header.size()
        && std::fwrite(values.data(), sizeof(float), values.size(), file) == values.size();
    if (std::fclose(file) != 0 || !ok) {
        fail(std::string("cannot write ") + path);
    }
}

llama_model * load(const char * path) {
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
    }, nullptr);
    llama_backend_init();
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = 0;
    llama_model * model = llama_model_load_from_file(path, params);
    if (model == nullptr) {
        fail(std::string("cannot load ") + path);
    }
    return model;
}

llama_context * open_context(llama_model * model, size_t tokens, int threads, ggml_type cache, llama_flash_attn_type flash) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx = static_cast<uint32_t>(tokens);
    params.n_batch = static_cast<uint32_t>(tokens);
    params.n_ubatch = static_cast<uint32_t>(tokens);
    params.n_threads = threads;
    params.n_threads_batch = threads;
    params.type_k = cache;
    params.type_v = cache;
    params.flash_attn_type = flash;
    llama_context * context = llama_init_from_model(model, params);
    if (context == nullptr) {
        fail("cannot create a context");
    }
    return context;
}

// Decodes `ids` in steps of `step` tokens and appends every position's logits to the result.
std::vector<float> decode(llama_context * context, const std::vector<llama_token> & ids, size_t step, size_t n_vocab) {
    std::vector<float> logits;
    llama_batch batch = llama_batch_init(static_cast<int32_t>(step), 0, 1);
    for (size_t start = 0; start < ids.size(); start += step) {
        batch.n_tokens = static_cast<int32_t>(step);
        for (size_t i = 0; i < step; ++i) {
            batch.token[i] = ids[start + i];
            batch.pos[i] = static_cast<llama_pos>(start + i);
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = 1;
        }
        if (llama_decode(context, batch) != 0) {
            fail("llama_decode failed at token " + std::to_string(start));
        }
        for (size_t i = 0; i < step; ++i) {
            const float * row = llama_get_logits_ith(context, static_cast<int32_t>(i));
            logits.insert(logits.end(), row, row + n_vocab);
        }
    }
    llama_batch_free(batch);
    return logits;
}

void print_ids(const char * name, const std::vector<llama_token> & ids, const char * end) {
    std::printf("\"%s\": [", name);
    for (size_t i = 0; i < ids.size(); ++i) {
        std::printf("%s%d", i == 0 ? "" : ", ", ids[i]);
    }
    std::printf("]%s", end);
}

void run_logits(int argc, char ** argv) {
    if (argc < 5) {
        fail("usage: logits MODEL.gguf IDS OUT.npy [threads] [f16|f32|q8_0] [batch|single] [auto|on|off]");
    }
    const int threads = argc > 5 ? std::atoi(argv[5]) : 1;
    const ggml_type cache = parse_cache_type(argc > 6 ? argv[6] : "f16");
    const bool single = argc > 7 && std::strcmp(argv[7], "single") == 0;
    const llama_flash_attn_type flash = parse_flash(argc > 8 ? argv[8] : "auto");
    llama_model * model = load(argv[2]);
    const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    const std::vector<llama_token> ids = parse_ids(argv[3], n_vocab);
    llama_context * context = open_context(model, ids.size(), threads, cache, flash);
    const std::vector<float> logits = decode(context, ids, single ? 1 : ids.size(), static_cast<size_t>(n_vocab));
    write_npy(argv[4], logits, ids.size(), static_cast<size_t>(n_vocab));
    llama_free(context);
    llama_model_free(model);
}

void run_greedy(int argc, char ** argv) {
    if (argc != 5) {
        fail("usage: greedy MODEL.gguf PROMPT COUNT");
    }
    llama_model * model = load(argv[2]);
    const llama_vocab * vocab = llama_model_get_vocab(model);
    const int n_vocab = llama_vocab_n_tokens(vocab);
    const int text_length = static_cast<int>(std::strlen(argv[3]));
    std::vector<llama_token> prompt(static_cast<size_t>(text_length) + 8);
    const int found = llama_tokenize(vocab, argv[3], text_length, prompt.data(), static_cast<int>(prompt.size()), true, true);
    if (found <= 0) {
        fail("cannot tokenize the prompt");
    }
    prompt.resize(static_cast<size_t>(found));
    const size_t count = static_cast<size_t>(std::max(0, std::atoi(argv[4])));
    llama_context * context = open_context(model, prompt.size() + count, 1, GGML_TYPE_F16, LLAMA_FLASH_ATTN_TYPE_AUTO);
    std::vector<llama_token> generated;
    std::vector<float> margins;
    llama_batch batch = llama_batch_get_one(prompt.data(), static_cast<int32_t>(prompt.size()));
    while (generated.size() < count && (generated.empty() || !llama_vocab_is_eog(vocab, generated.back()))) {
        if (llama_decode(context, batch) != 0) {
            fail("llama_decode failed");
        }
        const float * row = llama_get_logits_ith(context, -1);
        const float * best = std::max_element(row, row + n_vocab);
        generated.push_back(static_cast<llama_token>(best - row));
        margins.push_back(*best - std::max(best == row ? -INFINITY : *std::max_element(row, best),
                                           best + 1 == row + n_vocab ? -INFINITY : *std::max_element(best + 1, row + n_vocab)));
        batch = llama_batch_get_one(&generated.back(), 1);
    }
    std::printf("{");
    print_ids("prompt_ids", prompt, ", ");
    print_ids("ids", generated, ", \"margins\": [");
    for (size_t i = 0; i < margins.size(); ++i) {
        std::printf("%s%.4f", i == 0 ? "" : ", ", margins[i]);
    }
    std::printf("]}\n");
    llama_free(context);
    llama_model_free(model);
}

} // namespace

int main(int argc, char ** argv) {
    const std::string mode = argc > 1 ? argv[1] : "";
    if (mode == "logits") {
        run_logits(argc, argv);
    } else if (mode == "greedy") {
        run_greedy(argc, argv);
    } else {
        fail("the first argument must be logits or greedy, found \"" + mode + "\"");
    }
    llama_backend_free();
}
