/* fault.c - one countdown per kind. `any_armed` keeps the common case to one relaxed load. */
#include "base/fault.h"

#include <stdatomic.h>

static atomic_bool any_armed;
static atomic_llong countdown[FAULT_KINDS];
static atomic_bool fired[FAULT_KINDS];

void fault_arm(enum fault_kind kind, i64 n)
{
    atomic_store(&fired[kind], false);
    atomic_store(&countdown[kind], n);
    bool armed = false;
    for (int k = 0; k < FAULT_KINDS; k++)
        armed |= atomic_load(&countdown[k]) > 0;
    atomic_store(&any_armed, armed);
}

bool fault_fired(enum fault_kind kind)
{
    return atomic_load(&fired[kind]);
}

bool fault_hit(enum fault_kind kind)
{
    if (!atomic_load_explicit(&any_armed, memory_order_relaxed))
        return false;
    if (atomic_fetch_sub(&countdown[kind], 1) != 1)
        return false;
    atomic_store(&fired[kind], true);
    return true;
}
