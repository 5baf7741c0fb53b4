/* passwords.c - which passwords may be used, and Argon2id (19 MiB, t=2, p=1) by libsodium.
 *
 * No composition rules (they make passwords worse): a length, a list of what everybody tries first, and the owner's
 * own words. A word may *occur*; it just does not count: what is left without it must still be long enough to guess. */
#include "feat/users/users_parts.h"

#include "base/code.h"

#include <crypt.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LEFT_MIN = 8,
    ADDED_MAX = 8,
    WORD_MIN = 3,
    DISTINCT_MIN = 5,
    BYTES_MAX = PASSWORD_MAX * 4,
    OPS = 2,
    MEMORY_BYTES = 19 * 1024 * 1024
};
static_assert(PASSWORD_HASH_MAX == crypto_pwhash_STRBYTES, "the hash text fits");

/* The hash of 32 random bytes that nobody kept, with the parameters above: what an unknown user's password is
 * compared with. */
static const char nobody[] =
    "$argon2id$v=19$m=19456,t=2,p=1$fK2bs9GNP//9UA4H52GIFw$o3a5zILKQsphExzLU4WkwWsSsnQiX5Bvtr7FKzaX8EU";

/* common.txt: the 10,000 most common passwords (Mark Burnett's list), in lower case and byte order, a line each. Most are shorter than a password may be: they count as
 * stems, which people lengthen. */
extern const char passwords_common[];

/* What that list, made of leaks, does not know of our time and trade, in the same order: whole passwords of ten characters or more, and stems
 * that people lengthen by digits and signs. */
/* clang-format off */
static const char *const common[] = {
    "0000000000", "0123456789", "01234567890", "0987654321", "1010101010", "1029384756", "1111111111", "1122334455",
    "1123581321", "1212121212", "1231231234", "1234512345", "1234554321", "1234567890", "12345678901", "123456789012",
    "1234567891", "12345678910", "1234567898", "1234567899", "123456789a", "123456qwerty", "1234qwerasdf",
    "1234qwerty", "1236547890", "123abc456def", "123qweasdzxc", "147258369", "1472583690", "1password", "1q2w3e4r5t",
    "1q2w3e4r5t6y", "1q2w3e4r5t6y7u8i9o0p", "1qaz2wsx3edc", "1qaz2wsx3edc4rfv", "1qazxsw23edc", "2718281828",
    "3141592653", "31415926535", "5555555555", "741852963", "7894561230", "9876543210", "9999999999", "a1b2c3d4e5",
    "a1b2c3d4e5f6", "a1s2d3f4g5", "aaaaaa", "abc", "abc123abc123", "abcabc", "abcd", "abcdabcd", "abcdef", "abcdefg",
    "abcdefgh", "abcdefghij", "access", "accessdenied", "admin", "admin12345", "admin123456", "adminadmin",
    "administrator", "amazon", "andrew", "apple", "april", "arsenal", "asdf", "asdfasdf", "asdfasdfasdf", "asdfgh",
    "asdfghjkl", "asdfghjkl123", "ashley", "asshole", "august", "automation", "autumn", "averylongpassword", "azerty",
    "barcelona", "baseball", "basketball", "batman", "bbbbbb", "bitch", "blahblah", "blahblahblah", "blink",
    "business", "butterfly", "changeit", "changeme", "changemenow", "changethis", "charlie", "cheese", "chelsea",
    "chocolate", "coffee", "company", "computer", "computer1", "contrasena", "cookie", "correcthorse",
    "correcthorsebatterystaple", "corvette", "cowboys", "daniel", "database", "december", "default", "demo", "diamond",
    "dragon", "dragonball", "elephant", "eminem", "example", "facebook", "february", "ferrari", "flower", "football",
    "forever", "freedom", "friday", "friend", "friends", "fuckoff", "fuckyou", "ginger", "github", "google", "guest",
    "hannah", "harley", "hello", "helloall", "helloworld", "hockey", "hunter", "iloveu", "iloveyou", "iloveyousomuch",
    "iloveyouu", "instagram", "internet", "ironman", "january", "jennifer", "jessica", "jordan", "july", "june",
    "juventus", "killer", "kitten", "lakers", "letmein", "letmeinnow", "letmeinplease", "linkedin", "liverpool",
    "login", "logmein", "london", "longpassword", "love", "lovelove", "lovely", "loveme", "loveyou", "maggie",
    "manager", "manchester", "march", "marina", "martin", "master", "mastermind", "matrix", "matthew", "maverick",
    "may", "merlin", "michael", "mickey", "microsoft", "midnight", "minecraft", "monday", "monkey", "motdepasse",
    "mustang", "mycompany", "mypassword", "naruto", "newpassword", "nicole", "nopassword", "nothing", "november",
    "october", "office", "oldpassword", "opensesame", "orange", "p455w0rd", "p@ssw0rd", "p@ssword", "pa$$word",
    "pa55w0rd", "pa55word", "pass", "passw0rd", "passwd", "password", "password12", "password123", "password1234",
    "password12345", "password1password", "passwordpassword", "passwort", "pepper", "phoenix", "player", "pokemon",
    "pokemongo", "princess", "purple", "pwd", "q1w2e3r4", "q1w2e3r4t5", "q1w2e3r4t5y", "qaz2wsx", "qazwsx",
    "qazwsxedc", "qwe123rty456", "qweasd", "qweasdzxc", "qwer", "qwerty", "qwerty1234", "qwerty12345", "qwerty123456",
    "qwertyqwerty", "qwertyuiop", "qwertyuiop123", "qwertyuiopasdfghjkl", "qwertz", "rainbow", "ranger", "realmadrid",
    "robert", "root", "rootroot", "sample", "samsung", "saturday", "scooter", "secret", "secure", "securepassword",
    "security", "senha", "september", "server", "service", "sesame", "shadow", "silver", "slipknot", "snoopy",
    "soccer", "spiderman", "spring", "startrek", "starwars", "strongpassword", "summer", "sunday", "sunshine",
    "superman", "supersecret", "supersecretkey", "support", "sweet", "swordfish", "system", "taylor", "temp",
    "temporary", "test", "tester", "testing", "testpassword", "testtest", "thisismypassword", "thomas", "thursday",
    "tigger", "tinkerbell", "topsecret", "trinity", "trustno", "trustnoone", "tuesday", "unicorn", "user", "username",
    "verystrongpassword", "victoria", "wachtwoord", "warrior", "wednesday", "weir", "weirweir", "welcome", "welcometo",
    "whatever", "william", "winter", "workflow", "workflows", "yankees", "yellow", "yourpassword", "yoursecretkey",
    "zaq", "zaq12wsxcde3", "zaq1zaq1zaq1", "zxcvbn", "zxcvbnm", "zxcvbnm123",
};
/* clang-format on */

static int compare(const void *key, const void *entry)
{
    return str_cmp(*(const str *)key, str_of(*(const char *const *)entry));
}

/* The line of `text` that `at` is in. */
static str line_at(str text, size_t at)
{
    size_t from = at, to = at;
    while (from > 0 && text.p[from - 1] != '\n')
        from--;
    while (to < text.n && text.p[to] != '\n')
        to++;
    return str_slice(text, from, to);
}

/* Halves the text by bytes and looks at the line there. */
static bool is_in_lines(str text, str s)
{
    size_t from = 0, to = text.n;
    while (from < to) {
        str line = line_at(text, from + (to - from) / 2);
        int order = str_cmp(s, line);
        if (order == 0)
            return true;
        if (order < 0)
            to = (size_t)(line.p - text.p);
        else
            from = (size_t)(line.p - text.p) + line.n + 1;
    }
    return false;
}

static bool is_listed(str s)
{
    return s.n > 0 && (bsearch(&s, common, COUNT(common), sizeof common[0], compare) != NULL ||
                       is_in_lines(str_of(passwords_common), s));
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c & 0x80) != 0;
}

static bool is_word_char(char c)
{
    return is_letter(c) || (c >= '0' && c <= '9');
}

/* "password2024!" is "password" to whoever guesses. */
static str stem(str lower)
{
    size_t from = 0, to = lower.n;
    while (to > from && !is_letter(lower.p[to - 1]))
        to--;
    while (from < to && !is_letter(lower.p[from]))
        from++;
    return str_slice(lower, from, to);
}

static u32 distinct(str s)
{
    bool seen[256] = { false };
    u32 n = 0;
    for (size_t i = 0; i < s.n; i++) {
        n += !seen[(u8)s.p[i]];
        seen[(u8)s.p[i]] = true;
    }
    return n;
}

/* "abcdefghij", "9876543210": each byte one above, or one below, the one before. */
static bool is_sequence(str s)
{
    size_t up = 0, down = 0;
    for (size_t i = 1; i < s.n; i++) {
        up += s.p[i] - s.p[i - 1] == 1 || (s.p[i - 1] == '9' && s.p[i] == '0');
        down += s.p[i - 1] - s.p[i] == 1 || (s.p[i - 1] == '0' && s.p[i] == '9');
    }
    return up == s.n - 1 || down == s.n - 1;
}

static bool is_common(str lower)
{
    str bare = stem(lower);
    return is_listed(lower) || (lower.n - bare.n <= ADDED_MAX && is_listed(bare)) || distinct(lower) < DISTINCT_MIN ||
           is_sequence(lower);
}

/* Blanks every occurrence of the word in the text (NUL cannot be typed). */
static void blank(char *text, size_t n, str word)
{
    if (word.n < WORD_MIN)
        return;
    for (i64 at = 0; (at = str_find((str){ text, n }, word, (size_t)at)) >= 0;)
        memset(text + at, 0, word.n);
}

static void blank_words(char *text, size_t n, str words)
{
    char lower[BYTES_MAX];
    size_t len = MIN(words.n, sizeof lower), from = 0;
    for (size_t i = 0; i < len; i++)
        lower[i] = (char)(words.p[i] >= 'A' && words.p[i] <= 'Z' ? words.p[i] + 32 : words.p[i]);
    blank(text, n, (str){ lower, len });
    for (size_t i = 0; i <= len; i++) {
        if (i < len && is_word_char(lower[i]))
            continue;
        blank(text, n, (str){ lower + from, i - from });
        from = i + 1;
    }
}

static bool is_personal(str lower, const struct password_owner *owner)
{
    char text[BYTES_MAX];
    memcpy(text, lower.p, lower.n);
    for (size_t i = 0; i < COUNT(owner->words); i++)
        if (owner->words[i].n > 0)
            blank_words(text, lower.n, owner->words[i]);
    blank_words(text, lower.n, S("weir"));
    size_t left = 0;
    for (size_t i = 0; i < lower.n; i++)
        left += text[i] != 0;
    return left < lower.n && left < LEFT_MIN;
}

CODES(password_codes, CODE_ENTRY, { "password.length", "A password has 10 to 256 characters" },
      { "password.common", "The password is among the first that anybody would try" },
      { "password.personal", "Without its owner's own words too little of the password is left" });

const char *password_refused(str password, const struct password_owner *owner, const char **code)
{
    size_t chars = str_utf8_len(password);
    *code = "password.length";
    if (chars < PASSWORD_MIN || chars > PASSWORD_MAX || password.n > BYTES_MAX)
        return "A password has 10 to 256 characters";
    if ((i64)chars < owner->least)
        return "This tenant asks for a longer password";
    char text[BYTES_MAX];
    for (size_t i = 0; i < password.n; i++)
        text[i] = (char)(password.p[i] >= 'A' && password.p[i] <= 'Z' ? password.p[i] + 32 : password.p[i]);
    str lower = { text, password.n };
    *code = "password.common";
    if (is_common(lower))
        return "This password is among the first that anybody would try";
    *code = "password.personal";
    if (is_personal(lower, owner))
        return "Without your own words (e-mail, name, company) too little of this password is left";
    return NULL;
}

err password_hash(struct arena *a, str password, str *hash)
{
    assert(!db_on_writer());
    char *text = arena_alloc(a, crypto_pwhash_STRBYTES);
    if (text == NULL || sodium_init() < 0)
        return ERR_MEMORY;
    if (crypto_pwhash_str_alg(text, password.p, password.n, OPS, MEMORY_BYTES, crypto_pwhash_ALG_ARGON2ID13) != 0)
        return ERR_MEMORY;
    *hash = str_of(text);
    return OK;
}

/* ---- bcrypt, of services that were replaced ---- */

enum { BCRYPT_BYTES = 60, BCRYPT_COST_MIN = 4 };

i64 password_bcrypt_cost(str hash)
{
    if (hash.n != BCRYPT_BYTES || !str_starts(hash, S("$2")) || hash.p[3] != '$' || hash.p[6] != '$')
        return 0;
    i64 cost = (hash.p[4] - '0') * 10 + hash.p[5] - '0';
    return cost >= BCRYPT_COST_MIN && cost <= IMPORTED_COST_MAX ? cost : 0;
}

/* libxcrypt knows how. Its state is 32 KiB: too much for a small stack, so it is the pool's own thread's. */
static bool bcrypt(const char *setting, str password, str hash)
{
    static _Thread_local struct crypt_data state;
    char phrase[BYTES_MAX + 1] = { 0 };
    if (password.n > BYTES_MAX || memchr(password.p, 0, password.n) != NULL)
        return false;
    memcpy(phrase, password.p, password.n);
    const char *made =
        crypt_rn(phrase, setting, &state, sizeof state); /* not crypt_r: sanitizers put their own in its place */
    bool same = made != NULL && str_eq_secret(str_of(made), hash);
    sodium_memzero(phrase, sizeof phrase);
    sodium_memzero(&state, sizeof state);
    return same;
}

static bool bcrypt_verify(str hash, str password)
{
    char setting[BCRYPT_BYTES + 1] = { 0 };
    if (password_bcrypt_cost(hash) == 0)
        return false;
    memcpy(setting, hash.p, hash.n);
    return bcrypt(setting, password, hash);
}

/* The same work for nobody's hash. */
static void bcrypt_spend(i64 cost, str password)
{
    char setting[BCRYPT_BYTES + 1];
    snprintf(setting, sizeof setting, "$2b$%02d$CCCCCCCCCCCCCCCCCCCCC.", (int)cost);
    (void)bcrypt(setting, password, S(""));
}

bool password_outdated(str hash)
{
    return str_starts(hash, S("$2"));
}

/* ---- either ---- */

/* libsodium tells a wrong password from missing memory only by errno. */
err password_verify(str hash, str password, bool *matches)
{
    assert(!db_on_writer());
    if (password_outdated(hash)) {
        *matches = bcrypt_verify(hash, password);
        return OK;
    }
    char text[crypto_pwhash_STRBYTES] = { 0 };
    str with = hash.p != NULL && hash.n < sizeof text ? hash : str_of(nobody);
    memcpy(text, with.p, with.n);
    if (sodium_init() < 0)
        return ERR_MEMORY;
    errno = 0;
    bool same = crypto_pwhash_str_verify(text, password.p, password.n) == 0;
    if (!same && errno == ENOMEM)
        return ERR_MEMORY;
    *matches = same && with.p == hash.p;
    return OK;
}

/* What a hash of cost n leaves to one of cost m are hashes of n, n+1, … m-1: powers of two add up to that. */
err password_verify_anyone(str hash, i64 imported_cost, str password, bool *matches)
{
    bool outdated = password_outdated(hash), same;
    i64 cost = outdated ? password_bcrypt_cost(hash) : 0;
    TRY(password_verify(outdated ? STR_NONE : hash, password, &same));
    if (cost > 0)
        same = bcrypt_verify(hash, password);
    else if (imported_cost > 0)
        bcrypt_spend(imported_cost, password);
    for (; cost > 0 && cost < imported_cost; cost++)
        bcrypt_spend(cost, password);
    *matches = same;
    return OK;
}
