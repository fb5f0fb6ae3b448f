// The codes of the type that TYPE_... names.

#pragma once

#include "read.cuh"

#if defined(TYPE_q4_0)
#include "q4_0.cuh"
#elif defined(TYPE_q4_1)
#include "q4_1.cuh"
#elif defined(TYPE_q5_0)
#include "q5_0.cuh"
#elif defined(TYPE_q5_1)
#include "q5_1.cuh"
#elif defined(TYPE_q8_0)
#include "q8_0.cuh"
#elif defined(TYPE_q2_k)
#include "q2_k.cuh"
#elif defined(TYPE_q3_k)
#include "q3_k.cuh"
#elif defined(TYPE_q4_k)
#include "q4_k.cuh"
#elif defined(TYPE_q5_k)
#include "q5_k.cuh"
#elif defined(TYPE_q6_k)
#include "q6_k.cuh"
#elif defined(TYPE_iq4_nl)
#include "iq4_nl.cuh"
#elif defined(TYPE_iq4_xs)
#include "iq4_xs.cuh"
#elif defined(TYPE_mxfp4)
#include "mxfp4.cuh"
#endif
