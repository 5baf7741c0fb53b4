/* http2_guard.h - frames that cost us more than their sender: how many of them a connection may send. Private to net. */
#pragma once

#include "base/base.h"

enum guard_kind {
    GUARD_FREE, /* costs nothing; the rest is bounded by what it carries */
    GUARD_PING,
    GUARD_SETTINGS,
    GUARD_RESET,  /* streams that either side cut: rapid reset, and requests made to be refused */
    GUARD_EMPTY,  /* DATA without data and without end */
    GUARD_WINDOW, /* WINDOW_UPDATE beyond what our own DATA explains */
    GUARD_PRIORITY,
    GUARD_KINDS
};

/* Token buckets, each as the one time at which it is full again; all zero is full. */
struct guard {
    i64 full_us[GUARD_KINDS];
};

/* False: one too many. */
bool guard_take(struct guard *g, enum guard_kind kind, i64 now_us) MUST;
/* We sent a DATA frame: the other side may well open its windows. */
void guard_data_sent(struct guard *g);
/* For the log. */
const char *guard_name(enum guard_kind kind);
u32 guard_burst(enum guard_kind kind);
