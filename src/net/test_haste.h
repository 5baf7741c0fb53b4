/* test_haste.h - limits for tests that wait for time-outs: short enough to be waited for, long enough for what a test does within them on a busy machine. */
#pragma once

#include "base/clock.h"
#include "net/http.h"

#define HASTE_US (SECOND_US * 2 / 5)

static inline struct http_limits hasty(void)
{
    struct http_limits l = http_default_limits;
    l.header_us = l.body_us = l.idle_us = l.write_stall_us = HASTE_US;
    return l;
}
