/* vfs.c - SQLite's own file layer and memory with three switches: a write that finds the disk full, a sync that fails, no memory; for the tests.
 *
 * Only the method table of an open file is exchanged, not the file: forwarding all nineteen methods by hand was rejected,
 * because the methods take the file itself and do not care through which table they were found. */
#include "base/fault.h"
#include "db/sqlite.h"

/* The unix layer has one table per way of locking: its own for the database, another for everything beside it. */
enum { TABLES_MAX = 4 };
static struct table_shim {
    sqlite3_io_methods methods;
    const sqlite3_io_methods *base;
} tables[TABLES_MAX]; /* filled under the mutex, read through files that were opened after */
static u32 table_n;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static sqlite3_vfs *base, shim; /* written once */
static int registered;
static sqlite3_mem_methods memory; /* SQLite's own; written once */

static void *shim_malloc(int n)
{
    return fault_hit(FAULT_STORE_ALLOC) ? NULL : memory.xMalloc(n);
}

static void *shim_realloc(void *p, int n)
{
    return fault_hit(FAULT_STORE_ALLOC) ? NULL : memory.xRealloc(p, n);
}

static void shim_memory(void)
{
    if (sqlite3_config(SQLITE_CONFIG_GETMALLOC, &memory) != SQLITE_OK)
        return;
    sqlite3_mem_methods with_switch = memory;
    with_switch.xMalloc = shim_malloc;
    with_switch.xRealloc = shim_realloc;
    sqlite3_config(SQLITE_CONFIG_MALLOC, &with_switch);
}

static const sqlite3_io_methods *base_of(const sqlite3_file *file)
{
    return CONTAINER(file->pMethods, struct table_shim, methods)->base;
}

static int shim_write(sqlite3_file *file, const void *p, int n, sqlite3_int64 at)
{
    return fault_hit(FAULT_WRITE) ? SQLITE_FULL : base_of(file)->xWrite(file, p, n, at);
}

static int shim_sync(sqlite3_file *file, int flags)
{
    return fault_hit(FAULT_SYNC) ? SQLITE_IOERR_FSYNC : base_of(file)->xSync(file, flags);
}

/* The same table with the two switches; the table itself when there are more than we know of. */
static const sqlite3_io_methods *shim_of(const sqlite3_io_methods *methods)
{
    u32 i = 0;
    while (i < table_n && tables[i].base != methods)
        i++;
    if (i == TABLES_MAX)
        return methods;
    if (i == table_n) {
        tables[i] = (struct table_shim){ *methods, methods };
        tables[i].methods.xWrite = shim_write;
        tables[i].methods.xSync = shim_sync;
        table_n++;
    }
    return &tables[i].methods;
}

static int shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out_flags)
{
    int rc = base->xOpen(base, name, file, flags, out_flags);
    if (rc != SQLITE_OK)
        return rc;
    pthread_mutex_lock(&mutex);
    file->pMethods = shim_of(file->pMethods);
    pthread_mutex_unlock(&mutex);
    return SQLITE_OK;
}

static void set_up(void)
{
    /* Counting memory takes a process-wide mutex at each allocation; nobody asks for the count. */
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    shim_memory();
    registered = sqlite3_initialize();
    base =
        registered == SQLITE_OK ? sqlite3_vfs_find(NULL) : NULL; /* the unix one, unless a test put its own before it */
    if (base == NULL)
        return;
    shim = *base;
    shim.pNext = NULL;
    shim.zName = VFS_NAME;
    shim.xOpen = shim_open;
    registered = sqlite3_vfs_register(&shim, 0);
}

err vfs_register(void)
{
    pthread_once(&once, set_up);
    return base != NULL && registered == SQLITE_OK ? OK : ERR_INTERNAL;
}
