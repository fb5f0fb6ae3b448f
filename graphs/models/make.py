"""Writes the shape files beside it: models as the planner sees them, without weights.

    python3 graphs/models/make.py

Hyper-parameters are those of the published configurations. Tensor types follow llama.cpp's quantisation mixes where a
file is named for one; for deepseek-v3 and kimi-k2.5, whose mixes are not published, the types are found by search so that the
bytes are those that were measured (see each file's `about`). The format is described in src/models/shape_file/mod.rs.
"""

import itertools
import json
from pathlib import Path

# Bytes a block and elements a block (ggml-common.h).
BLOCKS = {"f32": (4, 1), "q8_0": (34, 32), "q6_k": (210, 256), "q5_k": (176, 256), "q4_k": (144, 256),
          "iq4_xs": (136, 256), "iq3_s": (110, 256), "iq3_xxs": (98, 256), "iq1_m": (56, 256), "iq1_s": (50, 256)}
MIB = 1 << 20


def main():
    qwen2("qwen2.5-32b-q4_k_m", "q4_k", 18.5)
    qwen2("qwen2.5-32b-q5_k_m", "q5_k", 21.66)
    llama_70b()
    qwen3moe("qwen3-30b-a3b-q4_k_m", "Qwen3 30B A3B", 48, 2048, 32, 6144, 768, medium)
    qwen3moe("qwen3-235b-a22b-q4_k_s", "Qwen3 235B A22B", 94, 4096, 64, 12288, 1536, small)
    gemma3_27b()
    deepseek_v3()
    kimi_k2_5()


class Model:
    """Collects metadata and tensors; names with `*` have one type a layer."""

    def __init__(self, about, metadata):
        self.about, self.metadata, self.tensors = about, metadata, []

    def add(self, name, shape, types):
        """`types` is one type, or for a name with `*` a list with a type (or None) a layer."""
        self.tensors.append((name, shape, types))

    def bytes(self):
        each = ([t] if isinstance(t, str) else [t for t in t if t] for _, _, t in self.tensors)
        return sum(size(t, shape) for (_, shape, _), types in zip(self.tensors, each) for t in types)

    def write(self, name):
        path = Path(__file__).with_name(f"{name}.json")
        metadata = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in self.metadata.items())
        tensors = ",\n".join(f"  {json.dumps(entry(*t))}" for t in self.tensors)
        path.write_text(f'{{\n "format": "loadmaster-shape",\n "version": 1,\n "about": {json.dumps(self.about)},\n'
                        f' "metadata": {{\n{metadata}\n }},\n "tensors": [\n{tensors}\n ]\n}}\n')
        print(f"{name}: {self.bytes() / 2**30:.2f} GiB")


def entry(name, shape, types):
    if isinstance(types, str):
        return {"name": name, "shape": shape, "type": types}
    lists = {}
    for layer, kind in enumerate(types):
        if kind:
            lists.setdefault(kind, []).append(layer)
    return {"name": name, "shape": shape, "types": {kind: ranges(layers) for kind, layers in sorted(lists.items())}}


def ranges(layers):
    runs = []
    for layer in layers:
        if runs and runs[-1][1] == layer - 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def size(kind, shape):
    nbytes, elements = BLOCKS[kind]
    assert shape[0] % elements == 0, (kind, shape)
    total = 1
    for n in shape:
        total *= n
    return total // elements * nbytes


def more_bits(i, n):
    """llama.cpp's use_more_bits: the first and last eighth of the layers, and every third between."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def medium(tensor, i, n):
    """The Q4_K_M mix."""
    return "q6_k" if tensor in ("attn_v", "ffn_down") and more_bits(i, n) else "q4_k"


def small(tensor, i, n):
    """The Q4_K_S mix."""
    return "q5_k" if (tensor == "attn_v" and i < 4) or (tensor == "ffn_down" and i < n // 8) else "q4_k"


def qwen2(name, base, total):
    n, width, kv, hidden, vocab = 64, 5120, 1024, 27648, 152064
    model = Model(f"Qwen2.5 32B with llama.cpp's {name[-6:].upper()} mix; files of it have about {total} GiB.", {
        "general.architecture": "qwen2", "general.name": "Qwen2.5 32B", "qwen2.block_count": n,
        "qwen2.context_length": 32768, "qwen2.embedding_length": width, "qwen2.feed_forward_length": hidden,
        "qwen2.attention.head_count": 40, "qwen2.attention.head_count_kv": 8, "qwen2.rope.freq_base": 1e6,
        "qwen2.attention.layer_norm_rms_epsilon": 1e-6})
    better = ["q6_k" if more_bits(i, n) else base for i in range(n)]
    model.add("token_embd.weight", [width, vocab], base)
    layer = lambda part, shape, types: model.add(f"blk.*.{part}", shape, types if isinstance(types, list) else [types] * n)
    layer("attn_norm.weight", [width], "f32")
    for half, rows, types in (("q", width, base), ("k", kv, base), ("v", kv, better)):
        layer(f"attn_{half}.weight", [width, rows], types)
        layer(f"attn_{half}.bias", [rows], "f32")
    layer("attn_output.weight", [width, width], base)
    layer("ffn_norm.weight", [width], "f32")
    layer("ffn_gate.weight", [width, hidden], base)
    layer("ffn_up.weight", [width, hidden], base)
    layer("ffn_down.weight", [hidden, width], better)
    finish(model, name, width, vocab, "q6_k")


def llama_70b():
    n, width, kv, hidden, vocab = 80, 8192, 1024, 28672, 128256
    model = Model("Llama 3 70B with llama.cpp's Q4_K_M mix, which gives attn_v of a 70B at least Q5_K.", {
        "general.architecture": "llama", "general.name": "Llama 3 70B", "llama.block_count": n,
        "llama.context_length": 8192, "llama.embedding_length": width, "llama.feed_forward_length": hidden,
        "llama.attention.head_count": 64, "llama.attention.head_count_kv": 8, "llama.rope.freq_base": 5e5,
        "llama.rope.dimension_count": 128, "llama.attention.layer_norm_rms_epsilon": 1e-5})
    model.add("token_embd.weight", [width, vocab], "q4_k")
    values = ["q6_k" if more_bits(i, n) else "q5_k" for i in range(n)]
    downs = ["q6_k" if more_bits(i, n) else "q4_k" for i in range(n)]
    for part, shape, types in (
            ("attn_norm", [width], ["f32"] * n), ("attn_q", [width, width], ["q4_k"] * n),
            ("attn_k", [width, kv], ["q4_k"] * n), ("attn_v", [width, kv], values),
            ("attn_output", [width, width], ["q4_k"] * n), ("ffn_norm", [width], ["f32"] * n),
            ("ffn_gate", [width, hidden], ["q4_k"] * n), ("ffn_up", [width, hidden], ["q4_k"] * n),
            ("ffn_down", [hidden, width], downs)):
        model.add(f"blk.*.{part}.weight", shape, types)
    finish(model, "llama-3-70b-q4_k_m", width, vocab, "q6_k")


def qwen3moe(name, title, n, width, heads, hidden, expert, mix):
    vocab, experts, head = 151936, 128, 128
    model = Model(f"{title} with llama.cpp's {name[-6:].upper()} mix.", {
        "general.architecture": "qwen3moe", "general.name": title, "qwen3moe.block_count": n,
        "qwen3moe.context_length": 40960, "qwen3moe.embedding_length": width, "qwen3moe.feed_forward_length": hidden,
        "qwen3moe.attention.head_count": heads, "qwen3moe.attention.head_count_kv": 4,
        "qwen3moe.attention.key_length": head, "qwen3moe.attention.value_length": head, "qwen3moe.rope.freq_base": 1e6,
        "qwen3moe.attention.layer_norm_rms_epsilon": 1e-6, "qwen3moe.expert_count": experts,
        "qwen3moe.expert_used_count": 8, "qwen3moe.expert_feed_forward_length": expert})
    model.add("token_embd.weight", [width, vocab], "q4_k")
    for part, shape, kind in (
            ("attn_norm", [width], "f32"), ("attn_q", [width, heads * head], None), ("attn_k", [width, 4 * head], None),
            ("attn_v", [width, 4 * head], None), ("attn_q_norm", [head], "f32"), ("attn_k_norm", [head], "f32"),
            ("attn_output", [heads * head, width], None), ("ffn_norm", [width], "f32"),
            ("ffn_gate_inp", [width, experts], "f32"), ("ffn_gate_exps", [width, expert, experts], None),
            ("ffn_up_exps", [width, expert, experts], None), ("ffn_down_exps", [expert, width, experts], None)):
        types = [kind or mix(part.removesuffix("_exps"), i, n) for i in range(n)]
        model.add(f"blk.*.{part}.weight", shape, types)
    finish(model, name, width, vocab, "q6_k")


def gemma3_27b():
    n, width, heads, kv, head, hidden, vocab = 62, 5376, 32, 16, 128, 21504, 262144
    key = lambda name: f"gemma3.{name}"
    model = Model("Gemma 3 27B (it) with llama.cpp's Q4_K_M mix, as files of about 15.4 GiB have it: the "
                  "embedding is the output matrix too, and so q6_k.", {
        "general.architecture": "gemma3", "general.name": "Gemma 3 27B", key("block_count"): n,
        key("context_length"): 131072, key("embedding_length"): width, key("feed_forward_length"): hidden,
        key("attention.head_count"): heads, key("attention.head_count_kv"): kv, key("attention.key_length"): head,
        key("attention.value_length"): head, key("attention.layer_norm_rms_epsilon"): 1e-6,
        key("attention.sliding_window"): 1024, key("rope.freq_base"): 1e6, key("rope.scaling.type"): "linear",
        key("rope.scaling.factor"): 8.0})
    model.add("token_embd.weight", [width, vocab], "q6_k")
    for part, shape, kind in (
            ("attn_norm", [width], "f32"), ("attn_q", [width, heads * head], None), ("attn_k", [width, kv * head], None),
            ("attn_v", [width, kv * head], None), ("attn_q_norm", [head], "f32"), ("attn_k_norm", [head], "f32"),
            ("attn_output", [heads * head, width], None), ("post_attention_norm", [width], "f32"),
            ("ffn_norm", [width], "f32"), ("ffn_gate", [width, hidden], None), ("ffn_up", [width, hidden], None),
            ("ffn_down", [hidden, width], None), ("post_ffw_norm", [width], "f32")):
        model.add(f"blk.*.{part}.weight", shape, [kind or medium(part, i, n) for i in range(n)])
    model.add("output_norm.weight", [width], "f32")
    model.write("gemma-3-27b-it-q4_k_m")


def finish(model, name, width, vocab, output):
    model.add("output_norm.weight", [width], "f32")
    model.add("output.weight", [width, vocab], output)
    model.write(name)


class Latent:
    """A model of DeepSeek's architecture: the shapes of its tensors."""

    width, layers, q_rank, rank, rotary, nope, value, dense, expert = 7168, 61, 1536, 512, 64, 128, 128, 18432, 2048

    def __init__(self, title, heads, experts, leading, vocab, more):
        self.heads, self.experts, self.leading, self.vocab = heads, experts, leading, vocab
        key = lambda name: f"deepseek2.{name}"
        self.metadata = {
            "general.architecture": "deepseek2", "general.name": title, key("block_count"): self.layers,
            key("embedding_length"): self.width, key("feed_forward_length"): self.dense,
            key("attention.head_count"): heads, key("attention.head_count_kv"): 1,
            key("attention.layer_norm_rms_epsilon"): 1e-6, key("attention.q_lora_rank"): self.q_rank,
            key("attention.kv_lora_rank"): self.rank, key("attention.key_length"): self.rank + self.rotary,
            key("attention.value_length"): self.rank, key("attention.key_length_mla"): self.nope + self.rotary,
            key("attention.value_length_mla"): self.value, key("rope.dimension_count"): self.rotary,
            key("leading_dense_block_count"): leading, key("expert_count"): experts, key("expert_used_count"): 8,
            key("expert_shared_count"): 1, key("expert_feed_forward_length"): self.expert,
            key("expert_weights_norm"): True, key("expert_gating_func"): 2, key("rope.scaling.type"): "yarn",
            key("rope.scaling.original_context_length"): 4096, key("rope.scaling.yarn_log_multiplier"): 0.1,
            **{key(name): value for name, value in more.items()}}

    def attention(self):
        """Matrices of the attention, those whose types are searched."""
        width, heads, rank = self.width, self.heads, self.rank
        return {"attn_q_a": [width, self.q_rank], "attn_q_b": [self.q_rank, heads * (self.nope + self.rotary)],
                "attn_kv_a_mqa": [width, rank + self.rotary], "attn_k_b": [self.nope, rank, heads],
                "attn_v_b": [rank, self.value, heads], "attn_output": [heads * self.value, width]}

    def feed_forward(self, i):
        """Matrices of the dense layer, or of the shared expert."""
        suffix, hidden = ("", self.dense) if i < self.leading else ("_shexp", self.expert)
        return {f"ffn_gate{suffix}": [self.width, hidden], f"ffn_up{suffix}": [self.width, hidden],
                f"ffn_down{suffix}": [hidden, self.width]}

    def expert_tensors(self):
        width, expert, experts = self.width, self.expert, self.experts
        return {"ffn_gate_exps": [width, expert, experts], "ffn_up_exps": [width, expert, experts],
                "ffn_down_exps": [expert, width, experts]}

    def plain(self, i):
        """Tensors in f32."""
        tensors = {"attn_norm.weight": [self.width], "attn_q_a_norm.weight": [self.q_rank],
                   "attn_kv_a_norm.weight": [self.rank], "ffn_norm.weight": [self.width]}
        if i >= self.leading:
            tensors |= {"ffn_gate_inp.weight": [self.width, self.experts], "exp_probs_b.bias": [self.experts]}
        return tensors

    def model(self, about, embedding, output, types):
        """`types(i)` names the type of every quantised tensor of layer `i`."""
        model = Model(about, self.metadata)
        model.add("token_embd.weight", [self.width, self.vocab], embedding)
        layers = {}
        for i in range(self.layers):
            own = types(i)
            shapes = {f"{name}.weight": (shape, own[name]) for name, shape in (
                self.attention() | self.feed_forward(i) | (self.expert_tensors() if i >= self.leading else {})).items()}
            for name, (shape, kind) in ({n: (s, "f32") for n, s in self.plain(i).items()} | shapes).items():
                layers.setdefault(name, (shape, [None] * self.layers))[1][i] = kind
        for name, (shape, kinds) in layers.items():
            model.add(f"blk.*.{name}", shape, kinds)
        model.add("output_norm.weight", [self.width], "f32")
        model.add("output.weight", [self.width, self.vocab], output)
        return model


# Types of blocks of 256; attn_k_b has rows of 128 and stays q8_0.
SEARCHED = ["q4_k", "q5_k", "q6_k", "q8_0", "iq4_xs"]


def deepseek_v3():
    shape = Latent("DeepSeek V3", 128, 256, 3, 129280, {
        "context_length": 163840, "expert_weights_scale": 2.5, "expert_group_count": 8, "expert_group_used_count": 4,
        "rope.freq_base": 10000.0, "rope.scaling.factor": 40.0})
    target = 130.20 * 2**30

    def mixed(attention, dense, down):
        def types(i):
            own = dict.fromkeys(shape.attention(), attention) | dict.fromkeys(shape.feed_forward(i), dense)
            return own | {"attn_k_b": "q8_0", "ffn_gate_exps": "iq1_s", "ffn_up_exps": "iq1_s",
                          "ffn_down_exps": "iq1_m" if i < down else "iq1_s"}
        return types

    choices = itertools.product(SEARCHED, SEARCHED, ("q4_k", "iq4_xs"), ("q5_k", "q6_k"), range(3, 12))
    make = lambda attention, dense, embedding, output, down: shape.model(
        "DeepSeek V3 at about 1.6 bits a weight: experts in iq1_s and iq1_m, the other types found by search so that the "
        "total is 130.20 GiB, that of a measured file in a type that ggml does not have.",
        embedding, output, mixed(attention, dense, down))
    best = min((make(*choice) for choice in choices), key=lambda model: abs(model.bytes() - target))
    best.write("deepseek-v3-iq1_s")


# Kimi-K2.5 UD-IQ3_XXS: MiB of every layer's tensors outside of experts, and of its gate, up and down experts, as
# a user's log shows them (ik_llama.cpp pull request 1501).
KIMI_EMBEDDING, KIMI_OUTPUT = 630.0, 918.75
KIMI_DENSE = {
    279.53: "0",
    102.97: "1",
    116.45: "2,4",
    99.58: "3",
    104.39: "5",
    107.78: "6",
    100.03: "7",
    97.72: "8-10,12,16",
    93.36: "11,13-14,21,26,32,57",
    98.61: "15",
    88.15: "17,19,22,24-25,28-31,33-56",
    93.4: "18,20",
    90.01: "23,27,58",
    97.64: "59",
    103.42: "60",
}
KIMI_EXPERTS = {
    (2310.0, 2310.0, 2856.0): "1-2,4,6,15,18,58,60",
    (2310.0, 2310.0, 2310.0): "3,5,7,54-57,59",
    (2058.0, 2058.0, 2058.0): "8-14,16-17,19,21-22,24-26,28-53",
    (2058.0, 2058.0, 2856.0): "20",
    (2058.0, 2058.0, 2310.0): "23,27",
}
EXPERT_TYPES = {2058.0: "iq3_xxs", 2310.0: "iq3_s", 2856.0: "iq4_xs"}


def layers_of(table):
    """`{value: "0-3,7"}` → a value a layer."""
    found = {}
    for value, text in table.items():
        for part in text.split(","):
            first, _, last = part.partition("-")
            found |= dict.fromkeys(range(int(first), int(last or first) + 1), value)
    return found


def kimi_k2_5():
    shape = Latent("Kimi K2.5", 64, 384, 1, 163840, {
        "context_length": 262144, "expert_weights_scale": 2.827, "rope.freq_base": 50000.0, "rope.scaling.factor": 64.0})
    dense, experts = layers_of(KIMI_DENSE), layers_of(KIMI_EXPERTS)
    known = {}

    def types(i):
        own = dict(zip(shape.expert_tensors(), (EXPERT_TYPES[mib] for mib in experts.get(i, ()))))
        key = (dense[i], i < shape.leading)
        if key not in known:
            known[key] = search(shape, i, dense[i])
        return own | known[key]

    shape.model("Kimi K2.5 as UD-IQ3_XXS: every layer's bytes are those of a user's log "
                "(ik_llama.cpp pull request 1501) to 0.1 MiB. The types of experts follow from them; those "
                "of other tensors are one of the combinations that give those bytes.", "q4_k", "q6_k", types
                ).write("kimi-k2.5-ud-iq3_xxs")


def search(shape, i, mib):
    """Types that give a layer's dense part, the closest with the fewest kinds."""
    fixed = sum(size("f32", s) for s in shape.plain(i).values())
    tensors = shape.attention() | shape.feed_forward(i)
    # Gate and up share a type, and attn_k_b has only one.
    gate, up, down = shape.feed_forward(i)
    free = [name for name in tensors if name not in ("attn_k_b", up)]
    best = None
    for kinds in itertools.product(SEARCHED, repeat=len(free)):
        own = dict(zip(free, kinds)) | {"attn_k_b": "q8_0"}
        own[up] = own[gate]
        found = (fixed + sum(size(own[name], s) for name, s in tensors.items())) / MIB
        rank = (round(abs(found - mib), 2), len(set(kinds)))
        if best is None or rank < best[0]:
            best = (rank, own)
    assert best[0][0] < 0.1, (i, mib, best)
    return best[1]


if __name__ == "__main__":
    main()
