/* tenants.h - companies: each owns its rows. What other features may ask of them. */
#pragma once

#include "core/module.h"
#include "db/db.h"

extern const struct module tenants_module;

/* Inside a write transaction. ERR_CONFLICT: the slug is taken. */
err tenants_insert(struct tx *tx, struct arena *a, i64 now_us, str slug, str name, str *id) MUST;
/* The id of a slug. ERR_NOT_FOUND when there is none. */
err tenants_find(struct tx *tx, str slug, str *id) MUST;
/* Whether a slug and a name may be used; ERR_INVALID writes why. */
err tenants_check(struct arena *a, str slug, str name, struct buf *complaint) MUST;

/* For `weir tenant add`: checks and inserts, waiting for the commit. Anything but OK writes a complaint for people. */
err tenants_add(struct arena *a, str slug, str name, str *id, struct buf *complaint) MUST;

/* What others ask of a tenant that works. */
struct tenant_facts {
    struct presence has;
    str id, slug, name, email_domains; /* JSON list, or STR_NONE for all */
    i64 password_min, quota_users;     /* 0: any number */
    bool require_2fa;
    i64 session_idle_minutes, session_absolute_minutes;
};
/* ERR_NOT_FOUND: there is none, or it is suspended. */
err tenants_facts(struct tx *tx, str tenant_id, struct tenant_facts *out) MUST;
/* Whether its domains have that of the address. */
bool tenants_takes(struct arena *a, const struct tenant_facts *t, str email);
