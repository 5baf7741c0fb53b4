/* smtp.c - see smtp.h. The egress guard does not apply: the server is the operator's own choice, and mostly stands in a private network. */
#include "net/smtp.h"

#include <curl/curl.h>
#include <string.h>

enum { CONNECT_S = 10, TOTAL_S = 60 };

static bool has_control(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((u8)s.p[i] <= ' ' || (u8)s.p[i] >= 127)
            return true;
    return s.n == 0;
}

bool smtp_url_valid(str url)
{
    bool plain = str_starts(url, S("smtp://")), tls = str_starts(url, S("smtps://"));
    return (plain || tls) && !has_control(url) && url.n > (plain ? 7u : 8u);
}

static size_t read_letter(char *to, size_t size, size_t count, void *ctx)
{
    str *rest = ctx;
    size_t n = MIN(size * count, rest->n);
    memcpy(to, rest->p, n);
    *rest = str_slice(*rest, n, rest->n);
    return n;
}

/* A 5yz reply says that the same letter will never pass. */
static err outcome(CURL *easy, CURLcode code, struct arena *a, str *why)
{
    long reply = 0;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &reply);
    if (code == CURLE_OK)
        return OK;
    *why = strf(a, "%s (reply %ld)", curl_easy_strerror(code), reply);
    return reply >= 500 && reply < 600 && code != CURLE_LOGIN_DENIED ? ERR_INVALID : ERR_UPSTREAM;
}

static err perform(CURL *easy, struct curl_slist *to, const char *url, const char *from, str *rest)
{
    bool login = strchr(url, '@') != NULL;
    int bad = 0;
    bad |= curl_easy_setopt(easy, CURLOPT_URL, url) | curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "smtp,smtps");
    bad |= curl_easy_setopt(easy, CURLOPT_USE_SSL, login ? (long)CURLUSESSL_ALL : (long)CURLUSESSL_TRY);
    bad |= curl_easy_setopt(easy, CURLOPT_MAIL_FROM, from) | curl_easy_setopt(easy, CURLOPT_MAIL_RCPT, to);
    bad |= curl_easy_setopt(easy, CURLOPT_READFUNCTION, read_letter) | curl_easy_setopt(easy, CURLOPT_READDATA, rest);
    bad |= curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L) | curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(easy, CURLOPT_PROXY, "") | curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
    bad |= curl_easy_setopt(easy, CURLOPT_TIMEOUT, (long)TOTAL_S);
    return bad == 0 ? OK : ERR_MEMORY;
}

err smtp_send(struct arena *a, str url, const struct smtp_letter *letter, str *why)
{
    *why = S("the addresses cannot be used");
    if (has_control(letter->from) || has_control(letter->to))
        return ERR_INVALID;
    const char *z = str_z(a, url), *from = str_z(a, letter->from), *to = str_z(a, letter->to);
    CURL *easy = curl_easy_init();
    struct curl_slist *list = to != NULL ? curl_slist_append(NULL, to) : NULL;
    str rest = letter->text;
    err e =
        easy == NULL || list == NULL || z == NULL || from == NULL ? ERR_MEMORY : perform(easy, list, z, from, &rest);
    if (e == OK)
        e = outcome(easy, curl_easy_perform(easy), a, why);
    curl_slist_free_all(list);
    curl_easy_cleanup(easy);
    return e;
}
