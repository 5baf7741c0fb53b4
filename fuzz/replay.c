/* replay.c - shows a fuzzer the committed inputs, where libFuzzer is not at hand.
 *
 *     <fuzzer> PATH...        files, or folders of files
 *
 * Each input has INPUT_SECONDS, so that one that takes for ever fails the test; without any input the run fails, too. */
#include "fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { INPUT_SECONDS = 20, INPUT_MAX = 1 << 20, PATH_MAX_BYTES = 4096 };

static const char *current = ""; /* named when the process dies */

static void fail(const char *path, const char *why)
{
    fprintf(stderr, "replay: %s: %s\n", path, why);
    exit(1);
}

static void name_input(void)
{
    if (current[0] != '\0')
        fprintf(stderr, "replay: it was %s\n", current);
}

static unsigned show_file(const char *path)
{
    static u8 bytes[INPUT_MAX];
    FILE *f = fopen(path, "rbe");
    if (f == NULL)
        fail(path, strerror(errno));
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    if (n == sizeof bytes)
        fail(path, "1 MiB or more");
    u8 *exact = malloc(n > 0 ? n : 1); /* so that a read beyond is seen */
    if (exact == NULL)
        fail(path, "no memory");
    if (n > 0)
        memcpy(exact, bytes, n);
    current = path;
    alarm(INPUT_SECONDS);
    LLVMFuzzerTestOneInput(exact, n);
    alarm(0);
    current = "";
    free(exact);
    return 1;
}

static unsigned show(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        fail(path, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return show_file(path);
    unsigned count = 0;
    struct dirent **names;
    int n = scandir(path, &names, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char below[PATH_MAX_BYTES];
        snprintf(below, sizeof below, "%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.')
            count += show(below);
        free(names[i]);
    }
    if (n >= 0)
        free(names);
    return count;
}

int main(int argc, char **argv)
{
    unsigned count = 0;
    atexit(name_input);
    for (int i = 1; i < argc; i++)
        count += show(argv[i]);
    if (count == 0)
        fail("corpus", "there is no input");
    printf("%u inputs\n", count);
    return 0;
}
