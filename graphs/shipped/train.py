"""Makes the shipped model: story grammar -> vocabulary -> training -> Q8_0 GGUF. One command, seeded:

    python3 graphs/shipped/train.py graphs/shipped/stories-1m.gguf

Needs PyTorch (Debian's python3-torch with libopenblas0-pthread is enough; no GPU) and the PyPI packages ``gguf`` and
``sentencepiece``. Takes about half an hour on one core. Everything the model has read comes from ``plots.py`` and
``phrases.py``; no outside text is used. The weights are released under CC0-1.0.

The last part of the steps reads longer windows, of stories that favour every first alternative, so that the likeliest
next token leads clearly and greedy text does not hang on the last bits of an engine's arithmetic. ``--resume FILE``
does only this part, from the weights in FILE. The shipped file came from a full run whose last part did not favour
yet, then ``--resume --steps 2400`` stopped after 160 steps, then ``--resume --steps 1600``: one plain run gives the
same kind of text, not the same bytes.

``--steps N`` trains shorter or longer, ``--threads N`` uses more cores (sums are then ordered differently, so the
weights differ in their last bits), ``--sample`` only prints a few stories of the grammar.
"""

import argparse
import io
import math
import random
import time
from pathlib import Path

import gguf
import numpy
import sentencepiece
import torch
import torch.nn.functional as F

from model import Network, Shape
from plots import story

SEED = 20240
UNK, BOS, EOS = 0, 1, 2
VOCAB_STORIES = 20_000
BATCH_TOKENS = 4096
LAST_SHARE = 0.15  # of the steps: windows of the whole context, favoured alternatives
FAVOUR = 0.3
PEAK_RATE, FINAL_RATE = 4e-3, 1e-4
PROMPTS = ["Once upon a time", "One day", "The little dog", "Lily", "Tom and Mia"]


def main():
    args = parse_arguments()
    if args.sample:
        rng = random.Random(SEED)
        print("\n\n".join(story(rng) for _ in range(8)))
        return
    torch.manual_seed(SEED)
    torch.set_num_threads(args.threads)
    vocabulary = make_vocabulary(Shape().vocab)
    network = Network(Shape())
    print(f"{sum(p.numel() for p in network.parameters())} parameters", flush=True)
    first_step = 0
    if args.resume:
        load_weights(network, vocabulary, args.resume)
        first_step = int(args.steps * (1 - LAST_SHARE))
    train(network, vocabulary, range(first_step, args.steps), args.output)
    for prompt in PROMPTS:
        print("|", continue_text(network, vocabulary, prompt), flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path, nargs="?", default=Path(__file__).with_name("stories-1m.gguf"))
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", type=Path, help="a GGUF file that this script wrote")
    parser.add_argument("--sample", action="store_true")
    return parser.parse_args()


def make_vocabulary(size: int) -> sentencepiece.SentencePieceProcessor:
    """A BPE vocabulary with byte fallback; BPE because ``tokenizer.ggml.model = llama`` merges by score."""
    rng = random.Random(SEED + 1)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(story(rng) for _ in range(VOCAB_STORIES)), model_writer=model, model_type="bpe",
        vocab_size=size, unk_id=UNK, bos_id=BOS, eos_id=EOS, pad_id=-1, byte_fallback=True,
        required_chars="".join(chr(c) for c in range(33, 127)), character_coverage=1.0,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
        split_digits=True, num_threads=1, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


class Reader:
    """Endless training windows. A window starts with a story (now and then in the middle of one) and is filled with
    further stories; ``BOS story EOS`` each."""

    def __init__(self, vocabulary):
        self.vocabulary = vocabulary
        self.rng = random.Random(SEED + 2)

    def document(self, favour: float) -> list[int]:
        text = story(self.rng, favour)
        if self.rng.random() < 0.1:
            starts = [i + 2 for i in range(len(text) - 40) if text[i] == "." and text[i + 1] == " "]
            text = text[self.rng.choice(starts):] if starts else text
        return [BOS, *self.vocabulary.encode(text), EOS]

    def window(self, length: int, favour: float) -> list[int]:
        ids: list[int] = []
        while len(ids) <= length:
            ids += self.document(favour)
        return ids[:length + 1]

    def batch(self, length: int, favour: float):
        ids = torch.tensor([self.window(length, favour) for _ in range(BATCH_TOKENS // length)])
        return ids[:, :-1], ids[:, 1:]


def train(network: Network, vocabulary, steps: range, output: Path):
    """AdamW with a warm-up and a cosine; the file is also written now and then on the way."""
    reader = Reader(vocabulary)
    matrices = [p for p in network.parameters() if p.dim() == 2]
    vectors = [p for p in network.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
                                  betas=(0.9, 0.98))
    started, recent = time.time(), []
    for step in steps:
        for group in optimiser.param_groups:
            group["lr"] = min(1.0, (step - steps.start + 1) / 100) * learning_rate(step / steps.stop)
        last_part = step >= int(steps.stop * (1 - LAST_SHARE))
        length, favour = (Shape().context, FAVOUR) if last_part else (Shape().context // 2, 0.0)
        inputs, targets = reader.batch(length, favour)
        loss = F.cross_entropy(network(inputs).flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        recent.append(loss.item())
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} loss {sum(recent) / len(recent):.4f} {time.time() - started:.0f} s", flush=True)
            recent = []
        if (step + 1) % 200 == 0 or step + 1 == steps.stop:
            write_gguf(network, vocabulary, output)
            print("|", continue_text(network, vocabulary, PROMPTS[0]), flush=True)


def learning_rate(progress: float) -> float:
    return FINAL_RATE + (PEAK_RATE - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * progress))


def load_weights(network: Network, vocabulary, path: Path):
    """Reads back what ``write_gguf`` wrote; refuses a file with another vocabulary."""
    reader = gguf.GGUFReader(str(path))
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    if tokens != [vocabulary.id_to_piece(i) for i in range(vocabulary.get_piece_size())]:
        raise SystemExit(f"{path}: its vocabulary is not the one that this script makes")
    weights = {t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).copy()) for t in reader.tensors}
    network.load_state_dict(weights)


@torch.no_grad()
def continue_text(network: Network, vocabulary, prompt: str, limit: int = 150) -> str:
    ids = [BOS, *vocabulary.encode(prompt)]
    while len(ids) < limit and ids[-1] != EOS:
        ids.append(int(network(torch.tensor([ids]))[0, -1].argmax()))
    return vocabulary.decode(ids)


def write_gguf(network: Network, vocabulary, path: Path):
    writer = gguf.GGUFWriter(str(path), "llama")
    write_description(writer)
    write_shape(writer, network.shape)
    write_vocabulary(writer, vocabulary)
    for name, parameter in network.state_dict().items():
        values = parameter.numpy().astype(numpy.float32)
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_description(writer: gguf.GGUFWriter):
    writer.add_type("model")
    writer.add_name("Stories 1M")
    writer.add_basename("stories")
    writer.add_size_label("1M")
    writer.add_author("the Loadmaster authors")
    writer.add_version("1")
    writer.add_license("cc0-1.0")
    writer.add_license_name("Creative Commons Zero v1.0 Universal")
    writer.add_description("A tiny story teller, trained only on stories from the grammar in graphs/shipped. "
                           "It continues openings such as 'Once upon a time' or 'One day'.")
    writer.add_languages(["en"])
    writer.add_tags(["text-generation", "stories", "tiny"])


def write_shape(writer: gguf.GGUFWriter, shape: Shape):
    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def write_vocabulary(writer: gguf.GGUFWriter, vocabulary):
    ids = range(vocabulary.get_piece_size())
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([vocabulary.id_to_piece(i).encode("utf-8") for i in ids])
    writer.add_token_scores([vocabulary.get_score(i) for i in ids])
    writer.add_token_types([token_type(vocabulary, i) for i in ids])
    writer.add_unk_token_id(UNK)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)


def token_type(vocabulary, token: int) -> int:
    if vocabulary.is_unknown(token):
        return gguf.TokenType.UNKNOWN
    if vocabulary.is_control(token):
        return gguf.TokenType.CONTROL
    if vocabulary.is_byte(token):
        return gguf.TokenType.BYTE
    return gguf.TokenType.NORMAL


if __name__ == "__main__":
    main()
