"""Makes the test oracles that come from llama.cpp: logits of any GGUF file, and greedy continuations.

llama.cpp is not part of this crate. Build it anywhere, for instance from the PyPI source package of
``llama-cpp-python``, which vendors its whole tree:

    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python && tar xzf llama_cpp_python-*.tar.gz
    cmake -S llama_cpp_python-*/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release -DLLAMA_BUILD_SERVER=OFF \\
          -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF
    cmake --build build --target llama

Then, with SOURCE the llama.cpp tree and BUILD its build folder (reference_logits.cpp is compiled into BUILD when it
is missing there or older than its source):

    # float32 [n_tokens, n_vocab], one batch at positions 0.., f16 KV cache, one thread, one file per model
    python3 tests/scripts/reference_logits.py --llama SOURCE --build BUILD logits --tokens 1,2,3 --out DIR a.gguf b.gguf

    # a JSON list of {prompt, text, prompt_ids, ids, margins} at temperature 0 (needs the PyPI package gguf, for the
    # text); margins are the logit gaps to the second best id, small where another engine may rightly differ
    python3 tests/scripts/reference_logits.py --llama SOURCE --build BUILD greedy --count 48 --out x.json a.gguf "Lily" "One day"

``--tokens`` also takes the name of a text file that holds the ids. The logits differ between machines in their last
bits, because llama.cpp chooses its kernels by CPU; the tests that use them compare with a tolerance.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".cpp")


def main():
    args = parse_arguments()
    program = build_program(args.llama, args.build)
    if args.command == "logits":
        write_logits(program, args)
    else:
        write_greedy(program, args)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--llama", type=Path, required=True, help="llama.cpp's source tree")
    parser.add_argument("--build", type=Path, required=True, help="its build folder, holding bin/libllama.so")
    commands = parser.add_subparsers(dest="command", required=True)
    logits = commands.add_parser("logits")
    logits.add_argument("--tokens", required=True, help="comma-separated ids, or a file of them")
    logits.add_argument("--out", type=Path, required=True, help="folder for MODEL.npy")
    logits.add_argument("--cache", choices=["f16", "f32", "q8_0"], default="f16")
    logits.add_argument("--single", action="store_true", help="decode token by token")
    logits.add_argument("--flash", choices=["auto", "on", "off"], default="auto")
    logits.add_argument("models", type=Path, nargs="+")
    greedy = commands.add_parser("greedy")
    greedy.add_argument("--count", type=int, default=48)
    greedy.add_argument("--out", type=Path, required=True, help="the JSON file")
    greedy.add_argument("model", type=Path)
    greedy.add_argument("prompts", nargs="+")
    return parser.parse_args()


def build_program(llama: Path, build: Path) -> Path:
    """Compiles reference_logits.cpp against the shared libraries in ``build/bin``."""
    libraries = build.resolve() / "bin"
    program = libraries / "reference_logits"
    if not any(libraries.glob("libllama.*")):
        sys.exit(f"no libllama in {libraries}: build llama.cpp first (see the top of {Path(__file__).name})")
    if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
        subprocess.run([os.environ.get("CXX", "c++"), "-O2", "-std=c++17", str(SOURCE), f"-I{llama / 'include'}",
                        f"-I{llama / 'ggml' / 'include'}", f"-L{libraries}", f"-Wl,-rpath,{libraries}",
                        "-lllama", "-lggml", "-lggml-cpu", "-lggml-base", "-o", str(program)], check=True)
    return program


def write_logits(program: Path, args):
    tokens = Path(args.tokens).read_text() if Path(args.tokens).is_file() else args.tokens
    ids = ",".join(tokens.replace(",", " ").split())
    args.out.mkdir(parents=True, exist_ok=True)
    for model in args.models:
        out = args.out / f"{model.stem}.npy"
        order = "single" if args.single else "batch"
        subprocess.run([str(program), "logits", str(model), ids, str(out), "1", args.cache, order, args.flash], check=True)
        print(f"{out} {out.stat().st_size} bytes")


def write_greedy(program: Path, args):
    pieces = token_pieces(args.model)
    entries = []
    for prompt in args.prompts:
        reply = subprocess.run([str(program), "greedy", str(args.model), prompt, str(args.count)], check=True, capture_output=True)
        answer = json.loads(reply.stdout)
        entries.append({"prompt": prompt, "text": decode(pieces, answer["ids"]), **answer})
    lines = ",\n  ".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    args.out.write_text(f"[\n  {lines}\n]\n")
    for entry in entries:
        print(f"{min(entry['margins']):8.4f} {entry['prompt']}|{entry['text']}")


def token_pieces(model: Path) -> list[bytes]:
    """What every id of an SPM vocabulary writes: nothing for control tokens, one byte for byte tokens."""
    import gguf  # only this command needs it

    fields = gguf.GGUFReader(str(model)).fields
    if fields["tokenizer.ggml.model"].contents() != "llama":
        sys.exit(f"{model}: greedy text needs tokenizer.ggml.model = llama")
    pieces = []
    for text, kind in zip(fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.token_type"].contents()):
        if kind in (gguf.TokenType.CONTROL, gguf.TokenType.UNKNOWN):
            pieces.append(b"")
        elif kind == gguf.TokenType.BYTE:
            pieces.append(bytes([int(text[3:5], 16)]))
        else:
            pieces.append(text.replace("\u2581", " ").encode())
    return pieces


def decode(pieces: list[bytes], ids: list[int]) -> str:
    """The continuation as it follows the prompt, so a leading blank stays."""
    return b"".join(pieces[i] for i in ids).decode("utf-8", errors="replace")


if __name__ == "__main__":
    main()
