/* map.h - text to pointer, in insertion order; open addressing over keyed hashes.
 *
 * On an arena it dies with the arena (deleting leaves the space behind); without one it is the caller's and map_free() ends
 * it. Keys are copied. Values are the caller's pointers. Not thread-safe. */
#pragma once

#include "base/str.h"

struct map {
    struct arena *arena; /* NULL = malloc */
    struct map_entry {
        str key;
        void *value;
        u64 hash;
    } * entries; /* dense, in insertion order; a deleted entry has key.p == NULL */
    u32 *slots;  /* index into entries + 1 */
    u32 count, used, slot_count;
};

void *map_get(const struct map *m, str key);
/* Adds or replaces. ERR_MEMORY leaves the map as it was. */
err map_put(struct map *m, str key, void *value) MUST;
/* The value that was there, NULL when none. */
void *map_delete(struct map *m, str key);
/* Walks the live entries: for (u32 i = 0; (e = map_next(m, &i)) != NULL;) */
struct map_entry *map_next(const struct map *m, u32 *i);
void map_free(struct map *m);
