/* events.h - news, told after the commit: topic and key, to whoever subscribed, on this node or another one. Delivery is by message on the subscriber's loop; a
 * subscriber that may have missed some is told so (`lost`) and reads the database again. That is one that is behind by more than 1,024 events; and where there are other
 * nodes, one that has just begun, once they know of it, one on a node that did not hear them for a while, and each now and then.
 *
 * So whoever subscribes reads the database after it has subscribed, and again when it is told; and what is published can be read. */
#pragma once

#include "base/str.h"
#include "net/loop.h"

struct event {
    const char *topic; /* "execution" */
    str key;           /* "execution_01…" */
    str tenant_id;
    str name; /* "step.completed" */
    str data; /* JSON text */
    str id;   /* ordering key within topic and key, see executions; may be "" */
};
struct subscription;
/* Events of topic + key. `on` is called on the calling loop; event texts live until it returns; event == NULL means some were lost. NULL when out of memory. */
struct subscription *events_subscribe(const char *topic, str key, void (*on)(void *ctx, const struct event *event),
                                      void *ctx) MUST;
void events_unsubscribe(struct subscription *s); /* on its loop */
/* From any thread, after the commit. Costs one atomic load when nobody listens to the topic. */
void events_publish(const struct event *e);
bool events_wanted(const char *topic, str key);
/* After the bus: ends what is remembered of other nodes' wishes. */
void events_end(void);
