/* supervise.h - what a service manager is told (sd_notify's protocol: a datagram to $NOTIFY_SOCKET). Without one, nobody is. */
#pragma once

#include "net/loop.h"

/* "READY=1", "STOPPING=1", "STATUS=…". */
void supervise_say(const char *text);
/* From now on says WATCHDOG=1 twice in the time that $WATCHDOG_USEC gives, as long as the loop turns. Before the loop runs, or on it. */
err supervise_watch(struct loop *l) MUST;
