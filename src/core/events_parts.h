/* events_parts.h - what events.c (this process) and events_nodes.c (the others) tell each other. */
#pragma once

#include "core/events.h"

/* events.c: to those who subscribed here, and to nobody else. */
void events_deliver(const struct event *e);
/* Tells the subscribers of topic and key here that they may have missed something; or all there are. */
void events_lose(const char *topic, str key);
void events_lose_all(void);

/* events_nodes.c: somebody here wants to hear of topic and key; said again every EVENTS_RENEW_S, else others forget it. */
void events_want(const char *topic, str key);
bool events_wanted_elsewhere(const char *topic, str key);
/* Costs one atomic load when no other node wants anything. */
void events_tell_elsewhere(const struct event *e);

enum {
    EVENTS_RENEW_S = 10,
    EVENTS_LOOK_S = 3 * EVENTS_RENEW_S, /* so often a subscriber reads the database even when all seems well */
    EVENTS_WANT_S = 3 * EVENTS_RENEW_S, /* for so long a wish counts */
    EVENTS_WANTS_MAX =
        64 << 10, /* of other nodes that are remembered; beyond, their subscribers only read the database */
};
