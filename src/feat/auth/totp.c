/* totp.c - the second factor: a seed that an authenticator program shares with us, and ten codes for the day it is lost.
 *
 * The seed is sealed with the server's key; a recovery code is kept as a keyed hash and deleted by its use. A code of the program is taken once: the user's row
 * remembers its step. Whoever tries codes has the password already, so their failures are counted for the account, wherever they come from. */
#include "codec/totp.h"
#include "base/rng.h"
#include "codec/base64.h"
#include "codec/hash.h"
#include "core/app.h"
#include "core/audit.h"
#include "core/cache.h"
#include "core/keys.h"
#include "core/seal.h"
#include "feat/auth/auth_parts.h"
#include "feat/users/users.h"

#include <string.h>

enum { CODES = 10, CODE_BYTES = 6, CODE_CHARS = 10 };

/* ---- fields ---- */

static const struct field setup_fields[] = {
    FIELD(struct totp_body, password, F_STR, .flags = F_REQUIRED | F_INPUT | F_SECRET, .min = 1, .max = PASSWORD_MAX,
          .doc = "The caller's password"),
};
const struct table totp_setup_table = TABLE("TotpSetup", struct totp_body, setup_fields, .doc = "Who asks for a seed");
static const struct field enable_fields[] = {
    FIELD(struct totp_body, code, F_STR, .flags = F_REQUIRED | F_INPUT | F_SECRET, .min = 6, .max = 6,
          .doc = "What the authenticator shows"),
};
const struct table totp_enable_table =
    TABLE("TotpEnable", struct totp_body, enable_fields, .doc = "Proof that the authenticator has the seed");
static const struct field both_fields[] = {
    FIELD(struct totp_body, password, F_STR, .flags = F_REQUIRED | F_INPUT | F_SECRET, .min = 1, .max = PASSWORD_MAX,
          .doc = "The caller's password"),
    FIELD(struct totp_body, code, F_STR, .flags = F_REQUIRED | F_INPUT | F_SECRET, .min = 6, .max = 20,
          .doc = "What the authenticator shows, or a recovery code"),
};
const struct table totp_both_table =
    TABLE("TotpProof", struct totp_body, both_fields, .doc = "Both factors of the caller");

struct totp_offer {
    struct presence has;
    str secret, otpauth_uri, qr_svg;
};
static const struct field offer_fields[] = {
    FIELD(struct totp_offer, secret, F_STR, .flags = F_OUTPUT, .max = 64, .doc = "The seed, to be typed"),
    FIELD(struct totp_offer, otpauth_uri, F_STR, .flags = F_OUTPUT, .max = 2000, .doc = "The seed, to be scanned"),
    FIELD(struct totp_offer, qr_svg, F_STR, .flags = F_OUTPUT, .max = 65536, .doc = "otpauth_uri as a picture"),
};
const struct table totp_offer_table =
    TABLE("TotpOffer", struct totp_offer, offer_fields, .doc = "A seed for an authenticator program");
struct recovery_codes {
    struct presence has;
    struct list recovery_codes;
};
static const struct field codes_fields[] = {
    FIELD(struct recovery_codes, recovery_codes, F_LIST, .flags = F_OUTPUT, .item = F_STR, .max = CODES,
          .doc = "Each is good once, in place of a code; they are shown this once"),
};
const struct table recovery_codes_table =
    TABLE("RecoveryCodes", struct recovery_codes, codes_fields, .doc = "For the day the authenticator is lost");

static const struct field state_fields[] = {
    FIELD(struct totp_state, totp_seed, F_STR, .flags = F_NULLABLE, .doc = "Sealed"),
    FIELD(struct totp_state, totp_enabled_at, F_TIME, .flags = F_NULLABLE, .doc = "When it was proved"),
    FIELD(struct totp_state, totp_last_step, F_I64, .doc = "Step of the last code that was taken"),
};
static const struct table state_table = TABLE("TotpState", struct totp_state, state_fields);

/* ---- problems, statements ---- */

PROBLEM_SHARED(totp_invalid, "auth.totp_invalid", ERR_UNAUTHORIZED, "The code is wrong, or was used before");
PROBLEM_SHARED(totp_on, "auth.totp_enabled", ERR_CONFLICT, "The second factor is set up already");
PROBLEM_SHARED(totp_off, "auth.totp_disabled", ERR_CONFLICT, "There is no second factor to use");

STMT(totp_of, "SELECT totp_seed, totp_enabled_at, totp_last_step FROM users WHERE id = $1", .row = &state_table,
     .scope = SCOPE_SYSTEM);
STMT(totp_offer_set, "UPDATE users SET totp_seed = $2, totp_last_step = 0 WHERE id = $1 AND totp_enabled_at IS NULL",
     .scope = SCOPE_SYSTEM);
STMT(totp_take,
     "UPDATE users SET totp_last_step = $2 WHERE id = $1 AND totp_last_step < $2 AND totp_enabled_at IS NOT NULL",
     .scope = SCOPE_SYSTEM);
STMT(totp_turn_on,
     "UPDATE users SET totp_enabled_at = $3, totp_last_step = $4, updated_at = $3"
     " WHERE id = $1 AND totp_seed = $2 AND totp_enabled_at IS NULL",
     .scope = SCOPE_SYSTEM);
STMT(
    totp_turn_off,
    "UPDATE users SET totp_seed = NULL, totp_enabled_at = NULL, updated_at = $2 WHERE id = $1 AND totp_enabled_at IS NOT NULL",
    .scope = SCOPE_SYSTEM);
STMT(code_add, "INSERT INTO recovery_codes (user_id, code_hash) VALUES ($1, $2)", .scope = SCOPE_SYSTEM);
STMT(code_take, "DELETE FROM recovery_codes WHERE user_id = $1 AND code_hash = $2", .scope = SCOPE_SYSTEM);
STMT(codes_end, "DELETE FROM recovery_codes WHERE user_id = $1", .scope = SCOPE_SYSTEM);

/* ---- codes ---- */

err totp_state(struct tx *tx, str user_id, struct totp_state *out)
{
    return db_row(tx, &totp_of, out, ARGS(STR(user_id)));
}

/* Attempts on an account's second factor, from anywhere. */
err totp_from(struct arena *a, str user_id, struct login_from *out)
{
    str name = strf(a, "totp:%.*s", STR_FMT(user_id));
    if (name.p == NULL)
        return ERR_MEMORY;
    TRY(login_from(a, name, S(""), out));
    out->ip = name;
    return OK;
}

/* Typed with or without the hyphen, in any case. Keyed: fifty bits would not stand against whoever steals the table. */
static err recovery_hash(struct arena *a, str user_id, str typed, str *out)
{
    u8 key[SHA256_BYTES], mac[SHA256_BYTES];
    struct buf b = { .arena = a };
    keys_mac(MAC_RECOVERY, key);
    buf_str(&b, user_id);
    for (size_t i = 0; i < typed.n; i++)
        if (typed.p[i] != '-' && typed.p[i] != ' ')
            buf_char(&b, (char)(typed.p[i] >= 'A' && typed.p[i] <= 'Z' ? typed.p[i] + 32 : typed.p[i]));
    TRY(b.fail);
    hash_hmac_sha256((str){ (const char *)key, sizeof key }, buf_view(&b), mac);
    *out = hex_encode(a, (str){ (const char *)mac, sizeof mac });
    return out->p != NULL ? OK : ERR_MEMORY;
}

err totp_read(struct arena *a, i64 now_us, str user_id, const struct totp_state *s, str code, struct totp_proof *out)
{
    str seed;
    struct totp_proof p = { .given = code.n > 0 };
    if (s->totp_seed.p == NULL || !p.given) {
        *out = p;
        return OK;
    }
    TRY(unseal_text(a, "auth.totp", user_id, s->totp_seed, &seed));
    if (code.n == TOTP_DIGITS)
        p.step = totp_check(seed, code, now_us, s->totp_last_step);
    else
        TRY(recovery_hash(a, user_id, code, &p.recovery_hash));
    *out = p;
    return OK;
}

err totp_use(struct tx *tx, str user_id, const struct totp_proof *p, bool *good)
{
    i64 changed = 0;
    if (p->step > 0)
        TRY(db_exec(tx, &totp_take, &changed, ARGS(STR(user_id), I64(p->step))));
    else if (p->recovery_hash.p != NULL)
        TRY(db_exec(tx, &code_take, &changed, ARGS(STR(user_id), STR(p->recovery_hash))));
    *good = changed > 0;
    return OK;
}

struct codes {
    str shown[CODES], hashes[CODES];
};

static err codes_make(struct arena *a, str user_id, struct codes *out)
{
    for (u32 i = 0; i < CODES; i++) {
        u8 bytes[CODE_BYTES + 1];
        rng_bytes(bytes, sizeof bytes);
        str text = str_lower(a, str_slice(base32_encode(a, (str){ (const char *)bytes, sizeof bytes }), 0, CODE_CHARS));
        out->shown[i] = strf(a, "%.*s-%.*s", CODE_CHARS / 2, text.p, CODE_CHARS / 2, text.p + CODE_CHARS / 2);
        if (text.p == NULL || out->shown[i].p == NULL)
            return ERR_MEMORY;
        TRY(recovery_hash(a, user_id, text, &out->hashes[i]));
    }
    return OK;
}

static err codes_store(struct req *rq, const struct codes *c)
{
    TRY(db_exec(rq->tx, &codes_end, NULL, ARGS(STR(rq->who.user_id))));
    for (u32 i = 0; i < CODES; i++)
        TRY(db_exec(rq->tx, &code_add, NULL, ARGS(STR(rq->who.user_id), STR(c->hashes[i]))));
    return OK;
}

static err codes_reply(struct req *rq, const struct codes *c)
{
    struct recovery_codes *out = NEW(rq->arena, struct recovery_codes);
    str *list = NEW_N(rq->arena, str, CODES);
    if (out == NULL || list == NULL)
        return ERR_MEMORY;
    memcpy(list, c->shown, sizeof c->shown);
    out->recovery_codes = (struct list){ list, CODES };
    field_set_all(&recovery_codes_table, out);
    return reply(rq, 200, &recovery_codes_table, out);
}

/* ---- under another SECRET_KEY ---- */

STMT(seed_page,
     "SELECT id, totp_seed AS sealed FROM users WHERE id > $1 AND totp_seed IS NOT NULL ORDER BY id LIMIT $2",
     .row = &sealed_row_table, .scope = SCOPE_SYSTEM);
STMT(seed_store, "UPDATE users SET totp_seed = $3 WHERE id = $1 AND totp_seed = $2", .scope = SCOPE_SYSTEM);

static err seed_again(struct arena *a, const struct sealed_row *row, str *out)
{
    return seal_again(a, "auth.totp", row->id, row->sealed, out);
}
const struct sealed_column totp_sealed[TOTP_SEALED] = { { "users.totp_seed", &seed_page, &seed_store, seed_again } };

/* ---- handlers ---- */

struct proving {
    struct login_from password_from, code_from;
    struct user_account user;
    struct totp_state state;
    struct totp_proof proof;
    bool matches; /* the password; true where none is asked for */
    str seed_sealed;
    struct totp_offer offer;
    struct codes codes;
};

static err begin(struct req *rq, struct proving **out)
{
    struct proving *p = NEW(rq->arena, struct proving);
    if (p == NULL)
        return ERR_MEMORY;
    TRY(login_from(rq->arena, rq->who.email, rq->http->remote, &p->password_from));
    TRY(totp_from(rq->arena, rq->who.user_id, &p->code_from));
    TRY(proof_throttled(rq, &p->password_from));
    TRY(proof_throttled(rq, &p->code_from));
    TRY(users_account_by_id(rq->tx, rq->who.user_id, &p->user));
    TRY(totp_state(rq->tx, rq->who.user_id, &p->state));
    p->matches = true;
    rq->prepared = *out = p;
    return OK;
}

static bool is_on(const struct totp_state *s)
{
    return s->totp_enabled_at != 0;
}

static err wrong_password(struct req *rq, const struct proving *p)
{
    TRY(proof_failed(rq, &p->password_from, rq->who.tenant_id, rq->who.user_id));
    return committed(problem(rq, &password_wrong, "Give the password that you sign in with"));
}

static err wrong_code(struct req *rq, const struct proving *p)
{
    TRY(proof_failed(rq, &p->code_from, rq->who.tenant_id, rq->who.user_id));
    return committed(problem(rq, &totp_invalid, "Wait for the next code, and look at the clock of the device"));
}

err totp_setup_prepare(struct req *rq)
{
    const struct totp_body *in = rq->body;
    struct proving *p;
    u8 seed[TOTP_SEED_BYTES];
    str plain = { (const char *)seed, sizeof seed };
    TRY(begin(rq, &p));
    if (is_on(&p->state))
        return problem(rq, &totp_on, "Turn it off first");
    TRY(password_verify(p->user.password_hash, in->password, &p->matches));
    rng_bytes(seed, sizeof seed);
    p->offer.secret = base32_encode(rq->arena, plain);
    p->offer.otpauth_uri = totp_uri(rq->arena, S("Weir"), rq->who.email, plain);
    p->offer.qr_svg = qr_svg(rq->arena, p->offer.otpauth_uri);
    if (p->offer.secret.p == NULL || p->offer.otpauth_uri.p == NULL || p->offer.qr_svg.p == NULL)
        return ERR_MEMORY;
    field_set_all(&totp_offer_table, &p->offer);
    return seal_text(rq->arena, "auth.totp", rq->who.user_id, plain, &p->seed_sealed);
}

/* Nothing is asked of the next login yet: only who can show a code has the seed. */
err totp_setup(struct req *rq)
{
    const struct proving *p = rq->prepared;
    i64 changed;
    TRY(proof_throttled(rq, &p->password_from)); /* again: many may have been hashing at once */
    if (!p->matches)
        return wrong_password(rq, p);
    TRY(db_exec(rq->tx, &totp_offer_set, &changed, ARGS(STR(rq->who.user_id), STR(p->seed_sealed))));
    if (changed == 0)
        return problem(rq, &totp_on, "Turn it off first");
    TRY(audit(rq, "auth.totp_setup", rq->who.user_id, STR_NONE));
    return reply(rq, 200, &totp_offer_table, &p->offer);
}

err totp_enable_prepare(struct req *rq)
{
    const struct totp_body *in = rq->body;
    struct proving *p;
    TRY(begin(rq, &p));
    if (is_on(&p->state))
        return problem(rq, &totp_on, "It is on");
    if (p->state.totp_seed.p == NULL)
        return problem(rq, &totp_off, "Ask for a seed first: POST /api/v1/auth/2fa/setup");
    TRY(totp_read(rq->arena, req_now(rq), rq->who.user_id, &p->state, in->code, &p->proof));
    return codes_make(rq->arena, rq->who.user_id, &p->codes);
}

err totp_enable(struct req *rq)
{
    const struct proving *p = rq->prepared;
    i64 changed;
    TRY(proof_throttled(rq, &p->code_from));
    if (p->proof.step == 0)
        return wrong_code(rq, p);
    TRY(db_exec(rq->tx, &totp_turn_on, &changed,
                ARGS(STR(rq->who.user_id), STR(p->state.totp_seed), I64(req_now(rq)), I64(p->proof.step))));
    if (changed == 0)
        return problem(rq, &totp_on, "It was changed at the same time");
    TRY(codes_store(rq, &p->codes));
    TRY(sessions_end(rq, rq->who.user_id, rq->who.session_id, S("others"))); /* they began without it */
    TRY(audit(rq, "auth.totp_enable", rq->who.user_id, STR_NONE));
    TRY(notice(rq, rq->who.tenant_id, rq->who.user_id, "totp_enabled"));
    return codes_reply(rq, &p->codes);
}

/* Both factors, for what takes one of them away. */
err totp_both_prepare(struct req *rq)
{
    const struct totp_body *in = rq->body;
    struct proving *p;
    TRY(begin(rq, &p));
    if (!is_on(&p->state))
        return problem(rq, &totp_off, "It is off");
    TRY(password_verify(p->user.password_hash, in->password, &p->matches));
    TRY(totp_read(rq->arena, req_now(rq), rq->who.user_id, &p->state, in->code, &p->proof));
    return codes_make(rq->arena, rq->who.user_id, &p->codes);
}

/* *answered: a factor was wrong. */
static err prove_both(struct req *rq, bool *answered)
{
    const struct proving *p = rq->prepared;
    bool good;
    *answered = true;
    TRY(proof_throttled(rq, &p->password_from));
    TRY(proof_throttled(rq, &p->code_from));
    if (!p->matches)
        return wrong_password(rq, p);
    TRY(totp_use(rq->tx, rq->who.user_id, &p->proof, &good));
    if (!good)
        return wrong_code(rq, p);
    *answered = false;
    return OK;
}

err totp_disable(struct req *rq)
{
    bool answered;
    err e = prove_both(rq, &answered);
    if (e != OK || answered)
        return e;
    TRY(db_exec(rq->tx, &totp_turn_off, NULL, ARGS(STR(rq->who.user_id), I64(req_now(rq)))));
    TRY(db_exec(rq->tx, &codes_end, NULL, ARGS(STR(rq->who.user_id))));
    TRY(audit(rq, "auth.totp_disable", rq->who.user_id, STR_NONE));
    TRY(notice(rq, rq->who.tenant_id, rq->who.user_id, "totp_disabled"));
    TRY(req_after(rq, cache_forget_all, NULL));
    return reply_empty(rq, 204);
}

err recovery_codes(struct req *rq)
{
    const struct proving *p = rq->prepared;
    bool answered;
    err e = prove_both(rq, &answered);
    if (e != OK || answered)
        return e;
    TRY(codes_store(rq, &p->codes));
    TRY(audit(rq, "auth.recovery_codes", rq->who.user_id, STR_NONE));
    return codes_reply(rq, &p->codes);
}
