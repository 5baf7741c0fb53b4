/* commits.h - SQLite as the two floors for writes use it: one thread that commits small rows, with the settings of the store (WAL, synchronous=FULL, checkpoints
 * apart from commits), and nothing else: no savepoints, no arenas. */
#pragma once

#include "base/str.h"

struct commits;
/* Makes a database in the folder; ends the program when something fails, as everything here does. */
struct commits *commits_open(const char *folder);
void commits_begin(struct commits *c);
void commits_insert(struct commits *c, str body);
/* And keeps the WAL short. */
void commits_end(struct commits *c);
void commits_close(struct commits *c);
