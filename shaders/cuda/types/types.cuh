// All types of weights and caches. TYPE_OF(name) has `run(row, number, x)`: of a row that begins at a byte, 32 numbers
// from 32 times `number` on. Rows begin at even bytes, those of mxfp4 anywhere, those of f32 at multiples of four. Types
// whose runs lie by themselves have RUN_BYTES, and those of caches `element(row, i)`.

#pragma once

#include "bf16.cuh"
#include "f16.cuh"
#include "f32.cuh"
#include "iq4_nl.cuh"
#include "iq4_xs.cuh"
#include "mxfp4.cuh"
#include "q2_k.cuh"
#include "q3_k.cuh"
#include "q4_0.cuh"
#include "q4_1.cuh"
#include "q4_k.cuh"
#include "q5_0.cuh"
#include "q5_1.cuh"
#include "q5_k.cuh"
#include "q6_k.cuh"
#include "q8_0.cuh"

#define TYPE_NAMED(name) type_##name
#define TYPE_OF(name) TYPE_NAMED(name)
