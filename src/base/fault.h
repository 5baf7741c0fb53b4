/* fault.h - the fault counter: makes the n-th allocation, write, sync, statement or outgoing call fail, once.
 *
 * Tests arm a kind with n and run the same scenario for n = 1, 2, 3 … until it no longer fires: every failure path is then
 * reached, in order. In release builds the check is one load of a constant-false flag. */
#pragma once

#include "base/base.h"

enum fault_kind { FAULT_ALLOC, FAULT_WRITE, FAULT_SYNC, FAULT_STATEMENT, FAULT_OUTGOING, FAULT_KINDS };

/* Arms a kind: its n-th next hit fails (n >= 1). 0 disarms. */
void fault_arm(enum fault_kind kind, i64 n);
/* Whether an armed fault has fired since it was armed. */
bool fault_fired(enum fault_kind kind);
/* True when this very call must fail. Thread-safe. */
bool fault_hit(enum fault_kind kind);
