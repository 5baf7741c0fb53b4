/* compress.c - gzip and brotli at settings that bound the time: level and quality 4, windows of 256 KiB at most.
 *
 * Higher ones cost several times as much for a tenth less: an API answer is made for one client and read once. The libraries take their
 * working memory from malloc, as they have no other place; it is freed before the function returns. */
#include "core/compress.h"

#include <brotli/encode.h>
#include <zlib.h>

enum {
    GZIP_LEVEL = 4,
    GZIP_WINDOW = 15 + 16 /* + 16: a gzip head, not zlib's */,
    BROTLI_WINDOW = 18,
    BROTLI_LEVEL = 4
};

str coding_name(enum coding c)
{
    static const str names[] = {
        [CODING_NONE] = { NULL, 0 }, [CODING_GZIP] = S_INIT("gzip"), [CODING_BROTLI] = S_INIT("br")
    };
    return names[c];
}

/* -- negotiation --------------------------------------------------------------------------------------------------- */

/* "0", "0.5", "1.000" as thousandths; -1 when it is none. */
static int weight(str q)
{
    int value = q.n > 0 && (q.p[0] == '0' || q.p[0] == '1') ? (q.p[0] - '0') * 1000 : -1;
    if (value < 0 || q.n > 5 || (q.n > 1 && q.p[1] != '.'))
        return -1;
    for (size_t i = 2, unit = 100; i < q.n; i++, unit /= 10) {
        if (q.p[i] < '0' || q.p[i] > '9')
            return -1;
        value += (q.p[i] - '0') * (int)unit;
    }
    return value <= 1000 ? value : -1;
}

/* Of one element: its name and weight. A weight that cannot be read refuses the element: plain is always right. */
static int element(str text, str *name)
{
    str part;
    int q = 1000;
    if (!str_cut(&text, ';', name))
        return 0;
    *name = str_trim(*name);
    while (str_cut(&text, ';', &part)) {
        part = str_trim(part);
        if (str_eq_nocase(str_slice(part, 0, 2), S("q=")))
            q = weight(str_slice(part, 2, part.n));
    }
    return q;
}

enum coding coding_choose(str accept)
{
    int q[] = { [CODING_NONE] = 0, [CODING_GZIP] = -1, [CODING_BROTLI] = -1 }, rest = 0;
    for (str one, name; str_cut(&accept, ',', &one);) {
        int w = element(one, &name);
        if (str_eq_nocase(name, S("br")))
            q[CODING_BROTLI] = MAX(w, 0);
        else if (str_eq_nocase(name, S("gzip")) || str_eq_nocase(name, S("x-gzip")))
            q[CODING_GZIP] = MAX(w, 0);
        else if (str_eq_nocase(name, S("identity")))
            q[CODING_NONE] = MAX(w, 0);
        else if (str_eq(name, S("*")))
            rest = MAX(w, 0);
    }
    enum coding best = CODING_NONE;
    for (enum coding c = CODING_GZIP; c <= CODING_BROTLI; c++) {
        int w = q[c] >= 0 ? q[c] : rest;
        if (w > 0 && w >= q[best])
            best = c, q[c] = w;
    }
    return best;
}

bool compress_type(str type)
{
    static const str whole[] = { S_INIT("application/json"), S_INIT("application/javascript"),
                                 S_INIT("application/xml"), S_INIT("image/svg+xml") };
    str bare = STR_NONE;
    if (!str_cut(&type, ';', &bare))
        return false;
    bare = str_trim(bare);
    if (str_eq_nocase(bare, S("text/event-stream")))
        return false;
    for (size_t i = 0; i < COUNT(whole); i++)
        if (str_eq_nocase(bare, whole[i]))
            return true;
    return str_eq_nocase(str_slice(bare, 0, 5), S("text/")) ||
           (bare.n > 5 && str_eq_nocase(str_slice(bare, bare.n - 5, bare.n), S("+json")));
}

/* -- bytes --------------------------------------------------------------------------------------------------------- */

/* `room` is less than the body, so what does not shrink fails early. */
static err gzip(str body, char *to, size_t room, size_t *n)
{
    z_stream z = { .next_in = (Bytef *)(uintptr_t)body.p, .next_out = (Bytef *)to };
    z.avail_in = (uInt)body.n;
    z.avail_out = (uInt)room;
    if (deflateInit2(&z, GZIP_LEVEL, Z_DEFLATED, GZIP_WINDOW, MAX_MEM_LEVEL - 1, Z_DEFAULT_STRATEGY) != Z_OK)
        return ERR_MEMORY;
    int done = deflate(&z, Z_FINISH);
    *n = room - z.avail_out;
    deflateEnd(&z);
    return done == Z_STREAM_END ? OK : ERR_TOO_LARGE;
}

static err brotli(str body, char *to, size_t room, size_t *n)
{
    *n = room;
    bool good = BrotliEncoderCompress(BROTLI_LEVEL, BROTLI_WINDOW, BROTLI_MODE_TEXT, body.n, (const uint8_t *)body.p, n,
                                      (uint8_t *)to);
    return good ? OK : ERR_TOO_LARGE;
}

err compress_body(struct arena *a, enum coding c, str body, str *out)
{
    size_t room = body.n - 1, n = 0;
    if (c == CODING_NONE || body.n < 2 || body.n > UINT32_MAX)
        return ERR_TOO_LARGE;
    char *to = arena_alloc(a, room);
    if (to == NULL)
        return ERR_MEMORY;
    TRY(c == CODING_GZIP ? gzip(body, to, room, &n) : brotli(body, to, room, &n));
    *out = (str){ to, n };
    return OK;
}

err packed_make(struct arena *a, str body, struct packed *out)
{
    struct packed made = { .bodies[CODING_NONE] = body };
    for (enum coding c = CODING_GZIP; c < CODINGS; c++) {
        err e = compress_body(a, c, body, &made.bodies[c]);
        if (e != OK && e != ERR_TOO_LARGE)
            return e;
    }
    *out = made;
    return OK;
}
