/* fuzz.h - what every fuzzer shares: a file here is one fuzzer, a name in meson.build builds it, fuzz/corpus/<name>/ is what it starts from.
 *
 * A fuzzer claims something about every input, not only that nothing crashes: what was accepted reads back, two ways give one answer. A claim is an
 * assert. With clang it is linked with libFuzzer (make fuzz), with any compiler with replay.c, which shows it the committed inputs (make test). */
#pragma once

#include "base/buf.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size);

enum { FUZZ_ARENA = 64 << 20 };

/* A copy of just the right size, so that reading one byte too far is seen; NULL data is "". */
static inline str fuzz_text(struct arena *a, const u8 *data, size_t size)
{
    char *p = arena_alloc(a, size);
    assert(p != NULL);
    if (size > 0)
        memcpy(p, data, size);
    return (str){ p, size };
}

/* The first byte, which chooses among ways to go; 0 of an empty input. */
static inline u8 fuzz_choice(const u8 **data, size_t *size)
{
    if (*size == 0)
        return 0;
    *size -= 1;
    return *(*data)++;
}
