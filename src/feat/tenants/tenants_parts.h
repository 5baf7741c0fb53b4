/* tenants_parts.h - what the files of this folder share with each other and nobody else sees. */
#pragma once

#include "core/jobs.h"
#include "feat/tenants/tenants.h"

/* --- tenants_purge.c --- */

err tenants_purge(const struct job *job) MUST;
