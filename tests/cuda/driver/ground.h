// Memory as the process gets it from the system for devices: garbage when it is got and when it is put back. What was put
// back stays mapped for a while, so that late readers see garbage instead of ending. Large pieces are copies-on-write of
// some pages of garbage: they cost what is written to them.
//
// Guarded, a piece ends where a page does that cannot be touched, begins at a multiple of 16 bytes only, and cannot be
// touched once it is put back: what reads or writes beyond it or too late ends its launch.

#pragma once

#include "../numbers.h"

namespace emulated {

// Null where the system has none.
void *get(u64 bytes, bool guarded);
void put(void *at, u64 bytes, bool guarded);
// Makes a piece that was got garbage again.
void spoil(void *at, u64 bytes, bool guarded);

}  // namespace emulated
