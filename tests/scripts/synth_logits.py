"""Makes tests/it/fixtures/logits/*.npy: llama.cpp's logits for the seeded models of cases.json.

    cargo build
    python3 tests/scripts/synth_logits.py --loadmaster target/debug/loadmaster --llama SOURCE --build BUILD

SOURCE is llama.cpp's source tree and BUILD its build folder; see reference_logits.py, which this calls.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "it" / "fixtures" / "logits"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--loadmaster", type=Path, required=True, help="the built program")
    parser.add_argument("--llama", type=Path, required=True, help="llama.cpp's source tree")
    parser.add_argument("--build", type=Path, required=True, help="its build folder, holding bin/libllama.so")
    parser.add_argument("names", nargs="*", help="cases to make; all, where none is named")
    args = parser.parse_args()
    described = json.loads((FOLDER / "cases.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        for case in described["cases"]:
            if args.names and case["name"] not in args.names:
                continue
            model = write_model(args.loadmaster, case, Path(folder))
            tokens = model.with_suffix(".txt")
            tokens.write_text(",".join(map(str, case.get("tokens", described["tokens"]))))
            script = Path(__file__).with_name("reference_logits.py")
            subprocess.run([sys.executable, str(script), "--llama", str(args.llama), "--build", str(args.build),
                            "logits", "--tokens", str(tokens), "--out", str(FOLDER), str(model)], check=True)


def write_model(loadmaster: Path, case: dict, folder: Path) -> Path:
    shape, model = folder / f"{case['name']}.json", folder / f"{case['name']}.gguf"
    shape.write_text(json.dumps(case["shape"]))
    subprocess.run([str(loadmaster.resolve()), "synth", str(shape), "--type", case["type"], "--seed", str(case["seed"]),
                    "-o", str(model)], check=True)
    return model


if __name__ == "__main__":
    main()
