/* fault.c - one countdown per kind. `any_armed` keeps the common case to one relaxed load. */
#include "base/fault.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { EACH_UP_TO = 200, EACH_LASTING_UP_TO = 20, LASTING_STRIDE = 4 };

static atomic_bool any_armed;
static atomic_llong countdown[FAULT_KINDS];
static atomic_bool fired[FAULT_KINDS], lasting[FAULT_KINDS];
static atomic_llong clock_shift;
static _Thread_local bool spare_me;

static void arm(enum fault_kind kind, i64 n, bool lasts)
{
    atomic_store(&lasting[kind], false); /* else a hit in between would see the old countdown with the new word */
    atomic_store(&fired[kind], false);
    atomic_store(&countdown[kind], n);
    atomic_store(&lasting[kind], lasts);
    bool armed = false;
    for (int k = 0; k < FAULT_KINDS; k++)
        armed |= atomic_load(&countdown[k]) > 0 || atomic_load(&lasting[k]);
    atomic_store(&any_armed, armed);
}

void fault_arm(enum fault_kind kind, i64 n)
{
    arm(kind, n, false);
}

void fault_arm_from(enum fault_kind kind, i64 n)
{
    arm(kind, n, true);
}

bool fault_fired(enum fault_kind kind)
{
    return atomic_load(&fired[kind]);
}

bool fault_hit(enum fault_kind kind)
{
    if (!atomic_load_explicit(&any_armed, memory_order_relaxed) || spare_me)
        return false;
    i64 left = atomic_fetch_sub(&countdown[kind], 1);
    if (left != 1 && (left > 1 || !atomic_load(&lasting[kind])))
        return false;
    atomic_store(&fired[kind], true);
    return true;
}

void fault_spare(bool spared)
{
    spare_me = spared;
}

i64 fault_next(i64 n, i64 stride, bool lasts)
{
    const char *full = getenv("WEIR_TEST_FULL");
    if (full != NULL && strcmp(full, "1") == 0)
        return n + 1;
    if (n >= EACH_UP_TO)
        return n + stride;
    return lasts && n >= EACH_LASTING_UP_TO ? n + LASTING_STRIDE : n + 1;
}

void fault_clock(i64 shift_us)
{
    atomic_store(&clock_shift, shift_us);
}

i64 fault_clock_shift(void)
{
    return atomic_load_explicit(&clock_shift, memory_order_relaxed);
}
