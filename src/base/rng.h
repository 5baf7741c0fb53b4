/* rng.h - random bytes from the kernel, fit for keys and ids. Thread-safe. */
#pragma once

#include "base/base.h"

void rng_bytes(void *p, size_t n);
u64 rng_u64(void);
/* Uniform in [0, bound); bound > 0. */
u64 rng_below(u64 bound);
