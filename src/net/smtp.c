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

/* A 5yz reply to an address, or to the whole letter, says that the same letter will never pass. The same to a greeting, STARTTLS or AUTH, and 53z wherever it comes, says
 * that the server or our settings are not ready, which somebody will mend. */
static bool refuses_letter(CURLcode code, long reply, bool sent)
{
    return reply >= 500 && reply < 600 && reply / 10 != 53 && (code == CURLE_SEND_ERROR || sent);
}

static err outcome(CURL *easy, CURLcode code, bool sent, struct arena *a, str *why)
{
    long reply = 0;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &reply);
    if (code == CURLE_OK)
        return OK;
    *why = strf(a, "%s (reply %ld)", curl_easy_strerror(code), reply);
    return refuses_letter(code, reply, sent) ? ERR_INVALID : ERR_UPSTREAM;
}

static int aim(CURL *easy, const char *url, const char *ca_file)
{
    bool login = strchr(url, '@') != NULL, pinned = ca_file[0] != '\0'; /* either has something to lose in the clear */
    int bad = 0;
    if (pinned)
        bad |= curl_easy_setopt(easy, CURLOPT_CAINFO, ca_file) | curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
    bad |= curl_easy_setopt(easy, CURLOPT_URL, url) | curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "smtp,smtps");
    bad |= curl_easy_setopt(easy, CURLOPT_USE_SSL, login || pinned ? (long)CURLUSESSL_ALL : (long)CURLUSESSL_TRY);
    return bad | curl_easy_setopt(easy, CURLOPT_PROXY, "");
}

static int load(CURL *easy, struct curl_slist *to, const char *from, str *rest)
{
    int bad = 0;
    bad |= curl_easy_setopt(easy, CURLOPT_MAIL_FROM, from) | curl_easy_setopt(easy, CURLOPT_MAIL_RCPT, to);
    bad |= curl_easy_setopt(easy, CURLOPT_READFUNCTION, read_letter) | curl_easy_setopt(easy, CURLOPT_READDATA, rest);
    bad |= curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L) | curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
    return bad | curl_easy_setopt(easy, CURLOPT_TIMEOUT, (long)TOTAL_S);
}

err smtp_send(struct arena *a, const struct smtp_server *server, const struct smtp_letter *letter, str *why)
{
    *why = S("the addresses cannot be used");
    if (has_control(letter->from) || has_control(letter->to))
        return ERR_INVALID;
    const char *url = str_z(a, server->url), *from = str_z(a, letter->from), *to = str_z(a, letter->to);
    const char *ca_file = str_z(a, server->ca_file.p != NULL ? server->ca_file : S(""));
    if (url == NULL || from == NULL || to == NULL || ca_file == NULL)
        return ERR_MEMORY;
    CURL *easy = curl_easy_init();
    struct curl_slist *list = curl_slist_append(NULL, to);
    str rest = letter->text;
    err e = ERR_MEMORY;
    if (easy != NULL && list != NULL && (aim(easy, url, ca_file) | load(easy, list, from, &rest)) == 0) {
        CURLcode code = curl_easy_perform(easy);
        e = outcome(easy, code, rest.n == 0, a, why);
    }
    curl_slist_free_all(list);
    curl_easy_cleanup(easy);
    return e;
}
