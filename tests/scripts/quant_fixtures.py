"""Makes tests/it/fixtures: what the PyPI package `gguf` decodes, encodes and writes.

    pip install gguf==0.19.0 numpy
    python tests/scripts/quant_fixtures.py

quant/<type>.bin      blocks, then the float32 numbers that they decode to
quant/<type>.encoded  blocks that quant/values.f32 encodes to
python.gguf           every metadata type and several tensor types, alignment 64
python-0000N-of-...   the same model in shards
"""

from pathlib import Path

import numpy as np
from gguf import GGUFValueType, GGUFWriter, quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T

OUT = Path(__file__).resolve().parents[1] / "it" / "fixtures"

# Where the half-precision scales of a block lie.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ4_NL: [0], T.IQ4_XS: [0], T.MXFP4: [],
}
FLOATS = {T.F32: np.uint32, T.F16: np.uint16, T.BF16: np.uint16}
ENCODED = [T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0]
# Ordinary, huge, zero of both signs, least normal and subnormal, infinite, not a number.
EXTREMES = [0x2C9D, 0x7BFF, 0xFBFF, 0x0000, 0x8000, 0x0400, 0x0001, 0x83FF, 0x7C00, 0xFC00, 0x7E01]


def random_blocks(rng, kind):
    """Blocks of random bytes; each extreme scale once, the last blocks left wholly random."""
    size = GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (len(EXTREMES) + 2, size), dtype=np.uint8)
    for i, extreme in enumerate(EXTREMES):
        for nth, at in enumerate(SCALES[kind]):
            bits = EXTREMES[(i + nth * 3) % len(EXTREMES)]
            blocks[i, at:at + 2] = [bits & 255, bits >> 8]
    if kind == T.MXFP4:
        exponents = [0, 1, 2, 127, 253, 254, 255]
        blocks[:len(exponents), 0] = exponents
    return blocks


def write_decoded(rng):
    for kind in SCALES:
        blocks = random_blocks(rng, kind)
        with np.errstate(all="ignore"):
            numbers = quants.dequantize(blocks, kind)
        assert numbers.dtype == np.float32
        (OUT / "quant" / f"{kind.name.lower()}.bin").write_bytes(blocks.tobytes() + numbers.tobytes())
    for kind, word in FLOATS.items():
        words = rng.integers(0, np.iinfo(word).max, 256, dtype=word, endpoint=True)
        numbers = quants.dequantize(words.view(np.uint8), kind)
        (OUT / "quant" / f"{kind.name.lower()}.bin").write_bytes(words.tobytes() + numbers.astype(np.float32).tobytes())


def write_encoded(rng):
    values = rng.normal(0, 0.1, (16, 32)).astype(np.float32)
    values[1] *= 1e4
    values[2] *= 1e-4
    values[3] = 0
    values[4] = 0.25
    values[5] = -values[5].round(1)
    values[6, ::2] = 0
    values[7] = np.arange(32) - 16
    values[8] = np.arange(32) / 31
    values[9] = np.linspace(-3, 1, 32)
    values[10] = 1e-9 * values[10]
    (OUT / "quant" / "values.f32").write_bytes(values.tobytes())
    for kind in ENCODED:
        with np.errstate(all="ignore"):
            encoded = quants.quantize(values, kind)
        (OUT / "quant" / f"{kind.name.lower()}.encoded").write_bytes(encoded.tobytes())


def fill(writer):
    writer.add_uint8("t.u8", 200)
    writer.add_int8("t.i8", -100)
    writer.add_uint16("t.u16", 60000)
    writer.add_int16("t.i16", -30000)
    writer.add_uint32("t.u32", 4000000000)
    writer.add_int32("t.i32", -2000000000)
    writer.add_float32("t.f32", 0.15625)
    writer.add_uint64("t.u64", 1 << 63)
    writer.add_int64("t.i64", -(1 << 62))
    writer.add_float64("t.f64", 1.1)
    writer.add_bool("t.bool", True)
    writer.add_string("t.str", "snow: \u2603, newline: \n")
    writer.add_array("t.strs", ["", "a", "\u00e9\u00e8", "\U0001f600"])
    writer.add_array("t.ints", [1, -2, 3])
    writer.add_array("t.floats", [0.5, -1.5])
    writer.add_array("t.bools", [True, False, True])
    writer.add_key_value("t.u16s", [1, 2, 65535], GGUFValueType.ARRAY, GGUFValueType.UINT16)
    writer.add_array("t.nested", [[1, 2], [3]])
    values = (np.arange(512, dtype=np.float32) - 256) / 64
    writer.add_tensor("floats", values[:24].reshape(2, 3, 4))
    writer.add_tensor("halves", values[:6].astype(np.float16).reshape(2, 3))
    for kind in (T.Q8_0, T.Q4_0):
        writer.add_tensor(f"blocks.{kind.name}", quants.quantize(values.reshape(8, 64), kind), raw_dtype=kind)
    writer.add_tensor("ints", np.arange(5, dtype=np.int32))


def write_models():
    for name, options in (("python.gguf", {}), ("python", {"split_max_tensors": 2})):
        writer = GGUFWriter(OUT / name, "test", **options)
        if not options:
            writer.add_custom_alignment(64)
        fill(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


if __name__ == "__main__":
    (OUT / "quant").mkdir(parents=True, exist_ok=True)
    write_decoded(np.random.default_rng(1))
    write_encoded(np.random.default_rng(2))
    write_models()
