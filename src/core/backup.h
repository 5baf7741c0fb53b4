/* backup.h - what `weir backup`, `restore` and `verify` do. They return exit codes and tell people what they found.
 *
 * A backup is one tar (zstd): manifest.json first, then the database, then, when asked for, the key file. */
#pragma once

#include "base/base.h"

/* To a file, or into a folder under a name of its own. Beside a running server or without one. */
int backup_make(const char *to, bool force, bool with_keys);
/* Checks first, and touches nothing until all is well. `check`: into a temporary place instead, and tells what is in it. */
int backup_restore(const char *from, bool check, bool force);
/* 0 good, 1 broken (it names what), 2 it cannot be read. */
int backup_verify(void);
