// The codes of the type that TYPE_... names.

#pragma once

#include "codes/read.cuh"

#if defined(TYPE_q4_0)
#include "codes/q4_0.cuh"
#elif defined(TYPE_q4_1)
#include "codes/q4_1.cuh"
#elif defined(TYPE_q5_0)
#include "codes/q5_0.cuh"
#elif defined(TYPE_q5_1)
#include "codes/q5_1.cuh"
#elif defined(TYPE_q8_0)
#include "codes/q8_0.cuh"
#elif defined(TYPE_q2_k)
#include "codes/q2_k.cuh"
#elif defined(TYPE_q3_k)
#include "codes/q3_k.cuh"
#elif defined(TYPE_q4_k)
#include "codes/q4_k.cuh"
#elif defined(TYPE_q5_k)
#include "codes/q5_k.cuh"
#elif defined(TYPE_q6_k)
#include "codes/q6_k.cuh"
#elif defined(TYPE_iq4_nl)
#include "codes/iq4_nl.cuh"
#elif defined(TYPE_iq4_xs)
#include "codes/iq4_xs.cuh"
#elif defined(TYPE_mxfp4)
#include "codes/mxfp4.cuh"
#endif
