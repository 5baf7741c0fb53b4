/* harden.h - what the process gives up before it reads the first byte from outside: cores, open file modes, new privileges, and the system calls
 * that it has no use for. */
#pragma once

#include "base/str.h"

enum { HARDEN_FILES_LOW = 4096 }; /* open files below which a server with some load runs dry */

/* For every verb: files are made for their owner only, no core holds secrets, no privileges are gained by whatever runs later, and as many files may
 * be open as the hard limit says. */
void harden_process(void);
/* How many files may be open at most; INT64_MAX = no bound. */
i64 harden_files(void);

/* Allows this thread, and those it makes, only the system calls of the list in harden.c; every other one fails with EPERM and is logged, each once.
 * ERR_INTERNAL where the kernel cannot do so. There is no way back. */
err harden_calls(void) MUST;
/* Whether harden_calls() could do its work here. */
bool harden_calls_known(void);
/* Why harden_calls() must not be called whatever the settings say; NULL: it may be. */
const char *harden_calls_barred(void);
