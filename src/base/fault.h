/* fault.h - the fault counter: makes the n-th allocation, write, sync, statement or outgoing call fail, once or from then on.
 *
 * Tests arm a kind with n and run the same scenario for n = 1, 2, 3 … until it no longer fires: every failure path is then
 * reached, in order. In release builds the check is one load of a constant-false flag. */
#pragma once

#include "base/base.h"

enum fault_kind {
    FAULT_ALLOC,
    FAULT_STORE_ALLOC, /* SQLite's own */
    FAULT_WRITE,
    FAULT_SYNC,
    FAULT_STATEMENT,
    FAULT_OUTGOING,
    FAULT_KINDS
};

/* Arms a kind: its n-th next hit fails (n >= 1), later ones do not. 0 disarms. */
void fault_arm(enum fault_kind kind, i64 n);
/* Its n-th next hit and all after it fail, until it is armed anew: a disk that stays full. */
void fault_arm_from(enum fault_kind kind, i64 n);
/* Whether an armed fault has fired since it was armed. */
bool fault_fired(enum fault_kind kind);
/* True when this very call must fail. Thread-safe. */
bool fault_hit(enum fault_kind kind);
/* What the calling thread does neither fails nor counts: for the part of a test that stands outside of what it looks at. */
void fault_spare(bool spared);
/* Which n comes after n: each of the first 200, then every stride-th. Of faults that last, which differ little from their neighbours, each of the first 20 and then
 * every 4th. Every one when WEIR_TEST_FULL is 1. */
enum { FAULT_STRIDE = 17 };
i64 fault_next(i64 n, i64 stride, bool lasts);

/* Moves the wall clock as an administrator does, against the real one. */
void fault_clock(i64 shift_us);
i64 fault_clock_shift(void);
