/* err.c - the table behind err.h. */
#include "base/err.h"

static const struct {
    const char *name;
    int status;
    bool retry;
    const char *text;
} classes[ERR_COUNT] = { [OK] = { "OK", 200, false, "OK" },
#define X(name, status, retry, text) [name] = { #name, status, retry, text },
                         ERR_CLASSES(X)
#undef X
};

int err_status(err e)
{
    return classes[e].status;
}

bool err_retryable(err e)
{
    return classes[e].retry;
}

const char *err_text(err e)
{
    return classes[e].text;
}

const char *err_name(err e)
{
    return classes[e].name;
}
