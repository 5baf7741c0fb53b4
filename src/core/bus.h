/* bus.h - news between nodes: small, unordered between nodes, allowed to get lost. Whoever listens has polling (or a short life of what it remembers) behind it.
 *
 *     static void heard(str text);
 *     BUS(news, "jobs", heard);
 *     bus_say(&news, S(""));
 *
 * What a node says itself it does not hear: the caller does its own part before. What one node says of one kind arrives in that order. Never said inside a
 * transaction: the bus has a thread, which sends at most every 20 ms, all that was said since in one packet. */
#pragma once

#include "base/str.h"

struct bus_kind {
    const char *name;
    /* On a thread of the transport; must only hand on. text.p == NULL: some may have been missed, look yourself. Never before all modules have started, nor once they
     * begin to stop. */
    void (*heard)(str text);
    bool each; /* equal texts are said as often as they come; else once in a packet */
};
#define BUS(id, name_, heard_, ...)                                                        \
    static const struct bus_kind id = { .name = (name_), .heard = (heard_), __VA_ARGS__ }; \
    static const struct bus_kind *const id##_entry __attribute__((section("weir_bus"), used)) = &id

enum {
    BUS_TEXT_MAX = 7000,         /* bytes of one text (UTF-8, no NUL); a larger one is told as "look yourself" */
    BUS_QUEUE_BYTES = 512 << 10, /* not sent yet; beyond it everybody is told "look yourself", once */
    BUS_EVERY_MS = 20,
    BUS_PACKET_MAX = 7900,
};
/* Any thread, after the commit. Costs next to nothing when this is the only node. */
void bus_say(const struct bus_kind *kind, str text);

/* After the modules: the first thing that is heard is "look yourself". Does nothing where there are no other nodes (SQLite). */
err bus_start(void) MUST;
/* Before the modules stop: nothing is heard any more, but what is said still goes out. */
void bus_deafen(void);
/* Sends what is queued, for a second or two at most. */
void bus_stop(void);
/* Whether all transports hear: else those who cannot bear silence ask the database each second. */
bool bus_hears(void);

/* A way between nodes. What is said goes out by the first of the list that is up; all of them are heard, since a node whose first is down still speaks by the next. */
struct bus_transport {
    const char *name;     /* "postgres", "redis" */
    bool (*wanted)(void); /* at the start: there is such a thing here */
    bool (*others)(void); /* whether anybody else is there; asked by each bus_say */
    /* Begins to listen, on a thread of its own that connects again by itself: a server that is away is no failure. */
    err (*start)(void);
    void (*stop)(void);  /* nothing is told to the bus after it; sending goes on */
    void (*close)(void); /* the end of sending; may be NULL */
    bool (*up)(void);    /* it hears now */
    /* On the bus's thread, for a second at most. At most BUS_PACKET_MAX bytes of UTF-8 without NUL. */
    err (*send)(str packet);
};
/* Told by a transport, on its thread: a packet came in (our own as well); it hears, from now on or again, and what was sent before may not have reached it. */
void bus_heard(const struct bus_transport *from, str packet);
void bus_missed(const struct bus_transport *from);
/* All transports there are, the preferred one first; ends with NULL. In bus.c. bus_start takes these; tests bring others. */
extern const struct bus_transport *const bus_transports[];
err bus_start_with(const struct bus_transport *const *list) MUST;
