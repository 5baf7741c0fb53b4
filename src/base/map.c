/* map.c - dense entries in insertion order, and a power-of-two table of indexes into them.
 *
 * A deleted entry keeps its slot (its key is gone, so no key equals it) until the next rebuild; that is why probing needs no
 * tombstones of its own and why deleting while walking is safe. Putting while walking is not: a rebuild closes the gaps. */
#include "base/map.h"
#include "base/fault.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_SLOTS = 16, MAX_SLOTS = 1 << 30 };

static void *take(const struct map *m, size_t bytes)
{
    if (m->arena != NULL)
        return arena_alloc(m->arena, bytes);
    return fault_hit(FAULT_ALLOC) ? NULL : calloc(1, bytes);
}

static void give(const struct map *m, const void *p)
{
    if (m->arena == NULL)
        free((void *)p);
}

/* Three of four slots may be taken, dead ones included: a probe always ends at an empty one. */
static u32 capacity(u32 slot_count)
{
    return slot_count / 4 * 3;
}

static u32 *slot_of(const struct map *m, str key, u64 hash)
{
    for (u32 i = (u32)hash & (m->slot_count - 1);; i = (i + 1) & (m->slot_count - 1)) {
        u32 *slot = &m->slots[i];
        if (*slot == 0)
            return slot;
        const struct map_entry *e = &m->entries[*slot - 1];
        if (e->key.p != NULL && e->hash == hash && str_eq(e->key, key))
            return slot;
    }
}

static struct map_entry *find(const struct map *m, str key, u64 hash)
{
    if (m->slot_count == 0)
        return NULL;
    u32 slot = *slot_of(m, key, hash);
    return slot != 0 ? &m->entries[slot - 1] : NULL;
}

static void copy_live(const struct map *from, struct map *to)
{
    struct map_entry *e;
    for (u32 i = 0; (e = map_next(from, &i)) != NULL;) {
        to->entries[to->used++] = *e;
        *slot_of(to, e->key, e->hash) = to->used;
    }
}

/* Twice the room, or the same when enough of it is dead. */
static err rebuild(struct map *m)
{
    struct map bigger = { .arena = m->arena, .count = m->count, .slot_count = MAX(m->slot_count, (u32)FIRST_SLOTS) };
    while (m->count > capacity(bigger.slot_count) / 2) {
        if (bigger.slot_count >= MAX_SLOTS)
            return ERR_MEMORY;
        bigger.slot_count *= 2;
    }
    bigger.entries = take(m, capacity(bigger.slot_count) * sizeof *bigger.entries);
    if (bigger.entries == NULL)
        return ERR_MEMORY;
    bigger.slots = take(m, bigger.slot_count * sizeof *bigger.slots);
    if (bigger.slots == NULL) {
        give(m, bigger.entries);
        return ERR_MEMORY;
    }
    copy_live(m, &bigger);
    give(m, m->entries);
    give(m, m->slots);
    m->entries = bigger.entries;
    m->slots = bigger.slots;
    m->used = bigger.used;
    m->slot_count = bigger.slot_count;
    return OK;
}

void *map_get(const struct map *m, str key)
{
    if (m->count == 0)
        return NULL;
    const struct map_entry *e = find(m, key, str_hash(key));
    return e != NULL ? e->value : NULL;
}

static str copy_key(const struct map *m, str key)
{
    char *p = take(m, key.n + 1);
    if (p == NULL)
        return STR_NONE;
    if (key.n > 0)
        memcpy(p, key.p, key.n);
    return (str){ p, key.n };
}

err map_put(struct map *m, str key, void *value)
{
    u64 hash = str_hash(key);
    struct map_entry *old = find(m, key, hash);
    if (old != NULL) {
        old->value = value;
        return OK;
    }
    if (m->used == capacity(m->slot_count))
        TRY(rebuild(m));
    str copy = copy_key(m, key);
    if (copy.p == NULL)
        return ERR_MEMORY;
    assert(m->entries != NULL); /* a map without room has just been rebuilt */
    m->entries[m->used++] = (struct map_entry){ copy, value, hash };
    *slot_of(m, key, hash) = m->used;
    m->count++;
    return OK;
}

void *map_delete(struct map *m, str key)
{
    struct map_entry *e = m->count > 0 ? find(m, key, str_hash(key)) : NULL;
    if (e == NULL)
        return NULL;
    void *value = e->value;
    give(m, e->key.p);
    *e = (struct map_entry){ 0 };
    m->count--;
    return value;
}

struct map_entry *map_next(const struct map *m, u32 *i)
{
    while (*i < m->used) {
        struct map_entry *e = &m->entries[(*i)++];
        if (e->key.p != NULL)
            return e;
    }
    return NULL;
}

void map_free(struct map *m)
{
    struct map_entry *e;
    for (u32 i = 0; m->arena == NULL && (e = map_next(m, &i)) != NULL;)
        give(m, e->key.p);
    give(m, m->entries);
    give(m, m->slots);
    *m = (struct map){ .arena = m->arena };
}
