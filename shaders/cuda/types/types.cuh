// All types of weights and caches. TYPE_OF(name) has `run(row, number, x)`: of a row that begins at a byte, 32 numbers
// from 32 times `number` on. Rows begin at even bytes, those of mxfp4 anywhere, those of f32 at multiples of four. Types
// whose runs lie by themselves have RUN_BYTES, and those of caches `element(row, i)`.

#pragma once

#include "types/bf16.cuh"
#include "types/f16.cuh"
#include "types/f32.cuh"
#include "types/iq4_nl.cuh"
#include "types/iq4_xs.cuh"
#include "types/mxfp4.cuh"
#include "types/q2_k.cuh"
#include "types/q3_k.cuh"
#include "types/q4_0.cuh"
#include "types/q4_1.cuh"
#include "types/q4_k.cuh"
#include "types/q5_0.cuh"
#include "types/q5_1.cuh"
#include "types/q5_k.cuh"
#include "types/q6_k.cuh"
#include "types/q8_0.cuh"

#define TYPE_NAMED(name) type_##name
#define TYPE_OF(name) TYPE_NAMED(name)
