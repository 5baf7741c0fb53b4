/* triggers_parts.h - what the files of this folder share, and nobody else includes. */
#pragma once

#include "codec/hash.h"
#include "core/req.h"
#include "feat/triggers/triggers.h"
#include "net/address.h"

struct trigger {
    struct presence has;
    str id,
        webhook_url; /* the settings follow: trigger_table and definition_trigger_table begin alike, so a row of one is a row of the other */
    str name, method, auth_type, auth_config; /* JSON: given, stored or masked, see triggers_auth.c */
    bool is_active;
    i64 rate_limit, max_body_bytes;
    str respond, dedup_header, allowed_ips; /* allowed_ips is JSON */
    str workflow_id, webhook_url_absolute, created_by;
    i64 created_at, updated_at;
};
extern const struct table trigger_table;
extern const struct variant_case trigger_auth_cases[];

/* ---- triggers_auth.c: secrets in, proofs out. Pure but for the nonce. ---- */

#define TRIGGER_MASK "****"
enum { TRIGGER_AUTH_ARENA = 16 * 1024 };

/* Whose secret it is: a sealed text opens for the same trigger of the same tenant only. */
struct trigger_owner {
    str secret_key; /* SECRET_KEY */
    str tenant_id, trigger_id;
    str secret_key_previous; /* opens too, never seals; n == 0: there is none */
};
/* What a caller must prove. */
struct trigger_auth {
    enum { AUTH_NONE, AUTH_API_KEY, AUTH_TOKEN, AUTH_JWT } kind;
    u8 digest[SHA256_BYTES];          /* of the key or token */
    str jwt_secret, issuer, audience; /* issuer and audience p == NULL: not asked for */
};
/* From what was sent to what is stored. `before` is the stored text of the same auth_type, STR_NONE when there is none: where the secret is missing or
 * masked, it stays. ERR_INVALID: there is no secret to keep. */
err trigger_auth_store(struct arena *a, const struct trigger_owner *owner, str auth_type, str given, str before,
                       str *stored) MUST;
/* Opens a stored text. ERR_INTERNAL: it is not ours, or sealed by another SECRET_KEY. */
err trigger_auth_open(struct arena *a, const struct trigger_owner *owner, str auth_type, str stored,
                      struct trigger_auth *out) MUST;
/* A stored text whose secret is sealed under secret_key; `stored` itself when it is so already. ERR_INTERNAL: neither key opens it. */
err trigger_auth_again(struct arena *a, const struct trigger_owner *owner, str stored, str *out) MUST;
/* What may be shown of a stored text; STR_NONE for none. ERR_MEMORY only. */
err trigger_auth_mask(struct arena *a, str auth_type, str stored, str *shown) MUST;
/* Do these header values prove it? */
bool trigger_auth_passes(struct arena *a, const struct trigger_auth *auth, str x_api_key, str authorization,
                         i64 now_us);

/* ---- triggers_input.c: a request as an execution sees it. Pure. ---- */

extern const struct problem trigger_body_form;
/* The `input_data` of a request, compact JSON of an object. ERR_DECODE: *why names the problem (JSON or form), *where the place in JSON. */
err trigger_input(struct arena *a, const struct http_request *http, str *json, const struct problem **why,
                  struct json_error *where) MUST;
/* The `trigger` of an execution. Headers that carry secrets are left out. */
err trigger_origin(struct arena *a, const struct http_request *http, str trigger_id, str *json) MUST;

/* ---- triggers_log.c: every attempt is a row, soon ---- */

struct delivery {
    str tenant_id, trigger_id, execution_id; /* execution_id p == NULL: none was started */
    const char *code;                        /* of the problem; NULL = none */
    int status;
    const char *method;
    str remote;
    i64 body_bytes, duration_us, now_us;
};
/* From any thread; never waits, never fails: when the buffer is full the delivery is counted as dropped. */
void delivery_log(const struct delivery *d);
err deliveries_start(void) MUST;
void deliveries_stop(void); /* writes what is left */
handler_fn trigger_deliveries;
extern const struct table delivery_table, delivery_query_table;

struct job;
err triggers_clean(const struct job *job);

/* ---- triggers_call.c: the trigger URL ---- */

err trigger_admit(struct req *rq, size_t *max_body) MUST;
handler_fn trigger_call;
void hooks_forget(void *unused); /* for req_after */
extern const struct table call_result_table, any_query_table;
extern const struct problem *const call_problems[];

extern const struct problem trigger_not_found;
