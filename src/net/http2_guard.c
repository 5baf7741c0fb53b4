/* http2_guard.c - see http2_guard.h.
 *
 * A bucket is kept as the time at which it would be full: taking a token moves that time by one interval, and it may not lie further ahead than
 * the burst. Nothing has to be refilled, and a connection that behaves never touches more than one number. */
#include "net/http2_guard.h"

enum { WINDOW_UPDATES_PER_DATA = 10 };

/* What browsers, curl, Node and proxies send stays far below: the worst is a page left with a hundred requests under way, all cancelled. */
static const struct {
    const char *name;
    u32 burst;
    i64 interval_us;
} rules[GUARD_KINDS] = {
    [GUARD_PING] = { "ping", 100, SECOND_US / 10 },
    [GUARD_SETTINGS] = { "settings", 20, SECOND_US },
    [GUARD_RESET] = { "reset", 200, SECOND_US / 20 },
    [GUARD_EMPTY] = { "empty_data", 100, SECOND_US / 10 },
    [GUARD_WINDOW] = { "window_update", 1000, SECOND_US / 100 },
    [GUARD_PRIORITY] = { "priority", 200, SECOND_US / 20 },
};

bool guard_take(struct guard *g, enum guard_kind kind, i64 now_us)
{
    i64 full = MAX(g->full_us[kind], now_us) + rules[kind].interval_us;
    if (full - now_us > rules[kind].burst * rules[kind].interval_us)
        return false;
    g->full_us[kind] = full;
    return true;
}

void guard_data_sent(struct guard *g)
{
    g->full_us[GUARD_WINDOW] -= WINDOW_UPDATES_PER_DATA * rules[GUARD_WINDOW].interval_us;
}

const char *guard_name(enum guard_kind kind)
{
    return rules[kind].name;
}

u32 guard_burst(enum guard_kind kind)
{
    return rules[kind].burst;
}
