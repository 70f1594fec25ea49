/* What a directory holds, and what each entry is, in one call without the GIL.
 *
 *   scan(dir_fd, leave_out)  getdents64, and statx for every name that is not left out, sorted by name
 *   stat_at(dir_fd, name)    statx of one name; a symlink is not followed
 *   stat_fd(fd)              statx of something open
 *   open_file(dir_fd, name)  openat, statx and flistxattr of a regular file
 *   read_small(dir_fd, names, limit, buffer)  all of that, read and close for many plain small files
 *
 * Why it is not os.scandir and os.stat: statx alone tells the birth time and the inode flags, and several calls into the system per
 * file, each giving the GIL away and asking for it back, cost more than the calls themselves. docs/decisions/0002 has the numbers.
 *
 * Every function may be called from any thread; `scan` moves the position of the descriptor it is given, so one thread per descriptor.
 * Nothing is kept between calls. Needs Linux 4.11 (statx) and nothing else. _scan.pyi has the types, tests/localfs/test_scan.py the oracle.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

/* The FS_*_FL bits of <linux/fs.h> that statx reports under the same numbers; the other attributes cannot be set again. */
#define SETTABLE_FLAGS (STATX_ATTR_COMPRESSED | STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND | STATX_ATTR_NODUMP)

enum kind { KIND_FILE, KIND_DIR, KIND_SYMLINK, KIND_BLOCKDEV, KIND_CHARDEV, KIND_FIFO, KIND_SOCKET, KINDS };

static const char *const KIND_NAMES[KINDS] = {"file", "dir", "symlink", "blockdev", "chardev", "fifo", "socket"};

/* One look at one inode. */
typedef struct {
    uint64_t size, inode, device, rdev, blocks;
    int64_t mtime_ns, ctime_ns, atime_ns, btime_ns;
    uint32_t uid, gid, links, flags;
    uint16_t mode;
    uint8_t kind;
    uint8_t has_btime;
    int error; /* errno of the look, and then nothing else here counts */
} Facts;

typedef struct {
    PyObject_HEAD
    PyObject *name;
    PyObject *type;
    Facts facts;
} Stat;

typedef struct {
    PyTypeObject *stat_type;
    PyObject *kinds[KINDS];
} State;

/* ---- asking the system; no Python below this line until the next one ---- */

/* Nanoseconds fit 64 bits until the year 2262, but a file system may hold later years: those are held at the end. */
static int64_t
nanoseconds(struct statx_timestamp time)
{
    int64_t ns;
    if (__builtin_mul_overflow(time.tv_sec, (int64_t)1000000000, &ns) || __builtin_add_overflow(ns, (int64_t)time.tv_nsec, &ns)) {
        return time.tv_sec < 0 ? INT64_MIN : INT64_MAX;
    }
    return ns;
}

static uint8_t
kind_of(uint16_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR: return KIND_DIR;
    case S_IFLNK: return KIND_SYMLINK;
    case S_IFBLK: return KIND_BLOCKDEV;
    case S_IFCHR: return KIND_CHARDEV;
    case S_IFIFO: return KIND_FIFO;
    case S_IFSOCK: return KIND_SOCKET;
    default: return KIND_FILE;
    }
}

static void
take_facts(Facts *facts, const struct statx *stx)
{
    facts->size = stx->stx_size;
    facts->inode = stx->stx_ino;
    facts->device = makedev(stx->stx_dev_major, stx->stx_dev_minor);
    facts->rdev = makedev(stx->stx_rdev_major, stx->stx_rdev_minor);
    facts->blocks = stx->stx_blocks;
    facts->mtime_ns = nanoseconds(stx->stx_mtime);
    facts->ctime_ns = nanoseconds(stx->stx_ctime);
    facts->atime_ns = nanoseconds(stx->stx_atime);
    facts->btime_ns = nanoseconds(stx->stx_btime);
    facts->has_btime = (stx->stx_mask & STATX_BTIME) != 0;
    facts->uid = stx->stx_uid;
    facts->gid = stx->stx_gid;
    facts->links = stx->stx_nlink;
    facts->flags = (uint32_t)(stx->stx_attributes & SETTABLE_FLAGS);
    facts->mode = stx->stx_mode & 07777;
    facts->kind = kind_of(stx->stx_mode);
}

/* An empty name asks about `fd` itself. The errno, also left in facts->error; 0 when it went well. */
static int
look(int fd, const char *name, Facts *facts)
{
    struct statx stx;
    int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (*name == '\0' ? AT_EMPTY_PATH : 0);
    int result;
    do {
        result = statx(fd, name, flags, STATX_BASIC_STATS | STATX_BTIME, &stx);
    } while (result < 0 && errno == EINTR);
    facts->error = result < 0 ? errno : 0;
    if (result == 0) {
        take_facts(facts, &stx);
    }
    return facts->error;
}

/* A name in a directory. */
typedef struct {
    union {
        size_t offset;    /* in the texts, while those may still move */
        const char *text; /* afterwards */
    };
    uint8_t kind; /* as the directory tells it; KINDS when it does not */
} Name;

/* What a directory holds: NUL-terminated texts one after the other, where each begins, and facts for each. */
typedef struct {
    char *texts;
    size_t used, room;
    Name *names;
    size_t count, slots;
    Facts *facts;
} Listing;

static void
listing_free(Listing *listing)
{
    free(listing->texts);
    free(listing->names);
    free(listing->facts);
}

/* Make room for one more name of `length` bytes with its NUL. 0 or ENOMEM. */
static int
listing_reserve(Listing *listing, size_t length)
{
    if (listing->used + length > listing->room) {
        size_t room = (listing->room + length) * 2 + 4096;
        char *texts = realloc(listing->texts, room);
        if (texts == NULL) {
            return ENOMEM;
        }
        listing->texts = texts;
        listing->room = room;
    }
    if (listing->count == listing->slots) {
        size_t slots = listing->slots * 2 + 64;
        Name *names = realloc(listing->names, slots * sizeof(Name));
        if (names == NULL) {
            return ENOMEM;
        }
        listing->names = names;
        listing->slots = slots;
    }
    return 0;
}

/* The record of getdents64(2). */
typedef struct {
    uint64_t inode;
    int64_t next;
    unsigned short length;
    unsigned char type;
    char name[];
} Record;

static int
listing_add(Listing *listing, const Record *record)
{
    if (strcmp(record->name, ".") == 0 || strcmp(record->name, "..") == 0) {
        return 0;
    }
    size_t length = strlen(record->name) + 1;
    int error = listing_reserve(listing, length);
    if (error == 0) {
        Name *name = &listing->names[listing->count++];
        name->offset = listing->used;
        name->kind = record->type == DT_UNKNOWN ? KINDS : kind_of(DTTOIF(record->type));
        memcpy(listing->texts + listing->used, record->name, length);
        listing->used += length;
    }
    return error;
}

/* Read all names. An errno, or 0. */
static int
listing_read(Listing *listing, int fd)
{
    char buffer[32768] __attribute__((aligned(8))); /* as much as glibc's readdir asks for at once */
    if (lseek(fd, 0, SEEK_SET) < 0) {
        return errno;
    }
    for (;;) {
        long size = syscall(SYS_getdents64, fd, buffer, sizeof(buffer));
        if (size < 0 && errno == EINTR) {
            continue;
        }
        if (size <= 0) {
            return size < 0 ? errno : 0;
        }
        for (long at = 0; at < size; at += ((Record *)(buffer + at))->length) {
            int error = listing_add(listing, (Record *)(buffer + at));
            if (error != 0) {
                return error;
            }
        }
    }
}

static int
compare_names(const void *left, const void *right)
{
    return strcmp(((const Name *)left)->text, ((const Name *)right)->text); /* unsigned bytes, as Python compares them */
}

static void
listing_sort(Listing *listing)
{
    for (size_t i = 0; i < listing->count; i++) {
        listing->names[i].text = listing->texts + listing->names[i].offset;
    }
    if (listing->count > 1) {
        qsort(listing->names, listing->count, sizeof(Name), compare_names);
    }
}

/* Look at every name; what goes wrong with one is in its facts. 0 or ENOMEM. */
static int
listing_look(Listing *listing, int fd)
{
    listing->facts = malloc((listing->count + 1) * sizeof(Facts));
    if (listing->facts == NULL) {
        return ENOMEM;
    }
    for (size_t i = 0; i < listing->count; i++) {
        look(fd, listing->names[i].text, &listing->facts[i]);
    }
    return 0;
}

/* Find out the kinds that the directory did not tell. What cannot be looked at counts as a file. */
static void
listing_settle_kinds(Listing *listing, int fd)
{
    Facts facts;
    for (size_t i = 0; i < listing->count; i++) {
        if (listing->names[i].kind == KINDS) {
            listing->names[i].kind = look(fd, listing->names[i].text, &facts) == 0 ? facts.kind : KIND_FILE;
        }
    }
}

static int
open_retrying(int dir_fd, const char *name, int flags)
{
    int fd;
    do {
        fd = openat(dir_fd, name, flags | O_RDONLY | O_CLOEXEC | O_NOCTTY);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* Open a file somebody holds a lease on (Samba, NFS), where O_NONBLOCK would not wait until the lease is given back. What is
 * at `name` is made sure of first, since without O_NONBLOCK a fifo would block for ever. */
static int
open_leased(int dir_fd, const char *name, int flags)
{
    char link[64];
    Facts facts;
    int fd = -1;
    int path_fd = open_retrying(dir_fd, name, O_PATH | O_NOFOLLOW);
    if (path_fd < 0) {
        return -1;
    }
    if (look(path_fd, "", &facts) == 0 && facts.kind == KIND_FILE) {
        snprintf(link, sizeof(link), "/proc/self/fd/%d", path_fd);
        fd = open_retrying(AT_FDCWD, link, flags);
    } else {
        errno = ELOOP;
    }
    int error = errno;
    close(path_fd);
    errno = error;
    return fd;
}

/* Reading must leave no trace in the access time, which only the owner and root may ask for. */
static int
open_quietly(int dir_fd, const char *name)
{
    int noatime = O_NOATIME;
    int fd = open_retrying(dir_fd, name, O_NOFOLLOW | O_NONBLOCK | noatime);
    if (fd < 0 && errno == EPERM) {
        noatime = 0;
        fd = open_retrying(dir_fd, name, O_NOFOLLOW | O_NONBLOCK);
    }
    if (fd < 0 && errno == EAGAIN) {
        fd = open_leased(dir_fd, name, noatime);
    }
    return fd;
}

/* An open regular file. */
typedef struct {
    int fd;
    Facts facts;
    ssize_t names_size;
    char names[65536]; /* XATTR_LIST_MAX */
} OpenedFile;

/* 0, or an errno with nothing left open. ELOOP for whatever is no regular file. */
static int
open_regular(int dir_fd, const char *name, OpenedFile *file)
{
    file->fd = open_quietly(dir_fd, name);
    if (file->fd < 0) {
        return errno == ENXIO ? ELOOP : errno; /* ENXIO: a socket, or a device without a driver */
    }
    int error = look(file->fd, "", &file->facts);
    if (error == 0 && file->facts.kind != KIND_FILE) {
        error = ELOOP;
    }
    if (error == 0) {
        file->names_size = flistxattr(file->fd, file->names, sizeof(file->names));
        if (file->names_size < 0) {
            error = errno == ENOTSUP ? 0 : errno;
            file->names_size = 0;
        }
    }
    if (error != 0) {
        close(file->fd);
    }
    return error;
}

/* What became of a name in `read_small`. */
typedef struct {
    const char *name;
    Facts facts;
    int whole; /* its content is in the buffer; otherwise it is for somebody else to read */
} SmallFile;

/* Read `size` bytes and find the end behind them. 1 when that is so. */
static int
read_whole(int fd, char *buffer, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = pread(fd, buffer + done, size - done, (off_t)done);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            return 0;
        }
        done += (size_t)count;
    }
    return 1;
}

/* Whether the open file is plain: regular, without holes and extended attributes. */
static int
is_plain(int fd, const Facts *facts)
{
    char names[1]; /* flistxattr says ERANGE when there are names that do not fit */
    return facts->kind == KIND_FILE && facts->blocks * 512 >= facts->size &&
           (flistxattr(fd, names, sizeof(names)) == 0 || errno == ENOTSUP);
}

/* Read one file if it is plain, fits, and does not change meanwhile. 0 when it does not fit: what follows must wait. */
static int
read_one(int dir_fd, SmallFile *file, size_t limit, char *buffer, size_t room)
{
    Facts after;
    int fits = 1;
    int fd = open_quietly(dir_fd, file->name);
    file->whole = 0;
    if (fd < 0) {
        return 1;
    }
    if (look(fd, "", &file->facts) == 0) {
        int small = file->facts.kind == KIND_FILE && file->facts.size <= limit;
        fits = !small || file->facts.size <= room;
        if (small && fits && is_plain(fd, &file->facts) && read_whole(fd, buffer, file->facts.size) && look(fd, "", &after) == 0) {
            file->whole = after.mtime_ns == file->facts.mtime_ns && after.ctime_ns == file->facts.ctime_ns &&
                          after.size == file->facts.size;
        }
    }
    close(fd);
    return fits;
}

/* How many files were dealt with: all, or those before the first that no longer fits. `limit` is at most `room`. */
static size_t
read_all(int dir_fd, SmallFile *files, size_t count, size_t limit, char *buffer, size_t room)
{
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        if (!read_one(dir_fd, &files[i], limit, buffer + used, room - used)) {
            return i;
        }
        if (files[i].whole) {
            used += files[i].facts.size;
        }
    }
    return count;
}

/* ---- Python ---- */

static PyObject *
raise_errno(int error)
{
    if (error == ENOMEM) {
        return PyErr_NoMemory();
    }
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *
raise_not_regular(void)
{
    PyObject *arguments = Py_BuildValue("(is)", ELOOP, "it is no longer a regular file");
    if (arguments != NULL) {
        PyErr_SetObject(PyExc_OSError, arguments);
        Py_DECREF(arguments);
    }
    return NULL;
}

static void
stat_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((Stat *)self)->name);
    Py_XDECREF(((Stat *)self)->type);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyObject *
stat_btime(PyObject *self, void *Py_UNUSED(closure))
{
    const Facts *facts = &((Stat *)self)->facts;
    if (!facts->has_btime) {
        Py_RETURN_NONE;
    }
    return PyLong_FromLongLong(facts->btime_ns);
}

#define FACT(name, type) {#name, type, offsetof(Stat, facts.name), READONLY, NULL}

static PyMemberDef stat_members[] = {
    {"name", T_OBJECT_EX, offsetof(Stat, name), READONLY, NULL},
    {"type", T_OBJECT_EX, offsetof(Stat, type), READONLY, NULL},
    FACT(mode, T_USHORT),
    FACT(uid, T_UINT),
    FACT(gid, T_UINT),
    FACT(size, T_ULONGLONG),
    FACT(mtime_ns, T_LONGLONG),
    FACT(ctime_ns, T_LONGLONG),
    FACT(atime_ns, T_LONGLONG),
    FACT(inode, T_ULONGLONG),
    FACT(device, T_ULONGLONG),
    FACT(links, T_UINT),
    FACT(rdev, T_ULONGLONG),
    FACT(flags, T_UINT),
    FACT(blocks, T_ULONGLONG),
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef stat_getset[] = {
    {"btime_ns", stat_btime, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot stat_slots[] = {
    {Py_tp_dealloc, stat_dealloc},
    {Py_tp_members, stat_members},
    {Py_tp_getset, stat_getset},
    {Py_tp_doc, "One look at one entry of a file system."},
    {0, NULL},
};

static PyType_Spec stat_spec = {
    .name = "bfrepo.localfs._scan.Stat",
    .basicsize = sizeof(Stat),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = stat_slots,
};

/* A new Stat; takes the reference to `name`, which may be NULL after an error. */
static PyObject *
stat_new(const State *state, PyObject *name, const Facts *facts)
{
    if (name == NULL) {
        return NULL;
    }
    Stat *stat = PyObject_New(Stat, state->stat_type);
    if (stat == NULL) {
        Py_DECREF(name);
        return NULL;
    }
    stat->name = name;
    stat->type = state->kinds[facts->kind];
    Py_INCREF(stat->type);
    stat->facts = *facts;
    return (PyObject *)stat;
}

/* Add what became of one name to `stats` or to `errors`. 0, or -1 with an exception. */
static int
append_result(const State *state, PyObject *stats, PyObject *errors, const char *name, const Facts *facts)
{
    PyObject *item = facts->error != 0 ? Py_BuildValue("(yi)", name, facts->error)
                                       : stat_new(state, PyBytes_FromString(name), facts);
    if (item == NULL) {
        return -1;
    }
    int result = PyList_Append(facts->error != 0 ? errors : stats, item);
    Py_DECREF(item);
    return result;
}

/* (stats, errors) */
static PyObject *
listing_results(const State *state, const Listing *listing)
{
    PyObject *stats = PyList_New(0);
    PyObject *errors = PyList_New(0);
    PyObject *results = NULL;
    int failed = stats == NULL || errors == NULL;
    for (size_t i = 0; i < listing->count && !failed; i++) {
        failed = append_result(state, stats, errors, listing->names[i].text, &listing->facts[i]) < 0;
    }
    if (!failed) {
        results = PyTuple_Pack(2, stats, errors);
    }
    Py_XDECREF(stats);
    Py_XDECREF(errors);
    return results;
}

/* Ask leave_out(name, type) about one name. 1, 0, or -1 with an exception. */
static int
is_left_out(const State *state, PyObject *leave_out, const Name *name)
{
    int answer = -1;
    PyObject *result = NULL;
    PyObject *text = PyBytes_FromString(name->text);
    if (text != NULL) {
        result = PyObject_CallFunctionObjArgs(leave_out, text, state->kinds[name->kind], NULL);
    }
    if (result != NULL) {
        answer = PyObject_IsTrue(result);
    }
    Py_XDECREF(text);
    Py_XDECREF(result);
    return answer;
}

/* Drop what is left out, before anything of it is touched: it may be a mount that never answers. 0, or -1 with an exception. */
static int
listing_drop(Listing *listing, const State *state, PyObject *leave_out)
{
    size_t kept = 0;
    for (size_t i = 0; i < listing->count; i++) {
        int answer = is_left_out(state, leave_out, &listing->names[i]);
        if (answer < 0) {
            return -1;
        }
        if (answer == 0) {
            listing->names[kept++] = listing->names[i];
        }
    }
    listing->count = kept;
    return 0;
}

static int
scan_names(Listing *listing, int fd, int with_kinds)
{
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = listing_read(listing, fd);
    if (error == 0) {
        listing_sort(listing);
        if (with_kinds) {
            listing_settle_kinds(listing, fd);
        }
    }
    Py_END_ALLOW_THREADS
    return error;
}

static int
scan_facts(Listing *listing, int fd)
{
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = listing_look(listing, fd);
    Py_END_ALLOW_THREADS
    return error;
}

static PyObject *
scan_into(Listing *listing, const State *state, int fd, PyObject *leave_out)
{
    int error = scan_names(listing, fd, leave_out != Py_None);
    if (error != 0) {
        return raise_errno(error);
    }
    if (leave_out != Py_None && listing_drop(listing, state, leave_out) < 0) {
        return NULL;
    }
    error = scan_facts(listing, fd);
    return error != 0 ? raise_errno(error) : listing_results(state, listing);
}

static PyObject *
scan(PyObject *module, PyObject *arguments)
{
    Listing listing = {0};
    PyObject *leave_out = Py_None;
    int fd;
    if (!PyArg_ParseTuple(arguments, "i|O:scan", &fd, &leave_out)) {
        return NULL;
    }
    PyObject *results = scan_into(&listing, PyModule_GetState(module), fd, leave_out);
    listing_free(&listing);
    return results;
}

/* The text of a bytes object that is a name in a directory; NULL with an exception. */
static const char *
name_text(PyObject *name)
{
    char *text;
    if (PyBytes_AsStringAndSize(name, &text, NULL) < 0) { /* refuses a NUL in the middle */
        return NULL;
    }
    if (*text == '\0') {
        raise_errno(ENOENT);
        return NULL;
    }
    return text;
}

static PyObject *
stat_at(PyObject *module, PyObject *arguments)
{
    int fd, error;
    PyObject *name;
    Facts facts;
    const char *text;
    if (!PyArg_ParseTuple(arguments, "iS:stat_at", &fd, &name) || (text = name_text(name)) == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    error = look(fd, text, &facts);
    Py_END_ALLOW_THREADS
    if (error != 0) {
        return raise_errno(error);
    }
    Py_INCREF(name);
    return stat_new(PyModule_GetState(module), name, &facts);
}

static PyObject *
stat_fd(PyObject *module, PyObject *argument)
{
    int error;
    Facts facts;
    int fd = PyObject_AsFileDescriptor(argument);
    if (fd < 0) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    error = look(fd, "", &facts);
    Py_END_ALLOW_THREADS
    if (error != 0) {
        return raise_errno(error);
    }
    return stat_new(PyModule_GetState(module), PyBytes_FromString(""), &facts);
}

/* (fd, stat, names); closes the file when there is no memory for that. */
static PyObject *
opened_result(const State *state, PyObject *name, const OpenedFile *file)
{
    Py_INCREF(name);
    PyObject *stat = stat_new(state, name, &file->facts);
    PyObject *result = NULL;
    if (stat != NULL) {
        result = Py_BuildValue("(iNy#)", file->fd, stat, file->names, (Py_ssize_t)file->names_size);
    }
    if (result == NULL) {
        close(file->fd);
    }
    return result;
}

static PyObject *
open_file(PyObject *module, PyObject *arguments)
{
    int dir_fd, error;
    PyObject *name;
    OpenedFile file;
    const char *text;
    if (!PyArg_ParseTuple(arguments, "iS:open_file", &dir_fd, &name) || (text = name_text(name)) == NULL) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    error = open_regular(dir_fd, text, &file);
    Py_END_ALLOW_THREADS
    if (error != 0) {
        return error == ELOOP ? raise_not_regular() : raise_errno(error);
    }
    return opened_result(PyModule_GetState(module), name, &file);
}

/* [Stat or None, ...] for the first `count` files. */
static PyObject *
small_results(const State *state, PyObject *names, const SmallFile *files, size_t count)
{
    PyObject *results = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; results != NULL && i < count; i++) {
        PyObject *item = Py_None;
        if (files[i].whole) {
            PyObject *name = PyTuple_GetItem(names, (Py_ssize_t)i);
            Py_XINCREF(name);
            item = stat_new(state, name, &files[i].facts);
        }
        else {
            Py_INCREF(item);
        }
        if (item == NULL || PyList_SetItem(results, (Py_ssize_t)i, item) < 0) {
            Py_CLEAR(results);
        }
    }
    return results;
}

static PyObject *
read_names(const State *state, int dir_fd, PyObject *names, size_t limit, const Py_buffer *buffer)
{
    PyObject *results = NULL;
    Py_ssize_t count = PyTuple_Size(names);
    SmallFile *files = calloc((size_t)count + 1, sizeof(SmallFile));
    if (files == NULL) {
        return PyErr_NoMemory();
    }
    int failed = 0;
    for (Py_ssize_t i = 0; i < count && !failed; i++) {
        PyObject *name = PyTuple_GetItem(names, i);
        failed = name == NULL || (files[i].name = name_text(name)) == NULL;
    }
    if (!failed) {
        size_t done;
        Py_BEGIN_ALLOW_THREADS
        done = read_all(dir_fd, files, (size_t)count, limit, buffer->buf, (size_t)buffer->len);
        Py_END_ALLOW_THREADS
        results = small_results(state, names, files, done);
    }
    free(files);
    return results;
}

static PyObject *
read_small(PyObject *module, PyObject *arguments)
{
    int dir_fd;
    Py_ssize_t limit;
    PyObject *names, *results = NULL;
    Py_buffer buffer;
    if (!PyArg_ParseTuple(arguments, "iO!nw*:read_small", &dir_fd, &PyTuple_Type, &names, &limit, &buffer)) {
        return NULL;
    }
    if (limit < 0 || limit > buffer.len) {
        PyErr_SetString(PyExc_ValueError, "the limit must be within the size of the buffer");
    }
    else {
        results = read_names(PyModule_GetState(module), dir_fd, names, (size_t)limit, &buffer);
    }
    PyBuffer_Release(&buffer);
    return results;
}

static PyMethodDef methods[] = {
    {"scan", scan, METH_VARARGS, "scan(dir_fd, leave_out=None) -> (stats sorted by name, [(name, errno)])"},
    {"stat_at", stat_at, METH_VARARGS, "stat_at(dir_fd, name) -> Stat, of a symlink itself"},
    {"stat_fd", stat_fd, METH_O, "stat_fd(fd) -> Stat, with an empty name"},
    {"open_file", open_file, METH_VARARGS, "open_file(dir_fd, name) -> (fd, Stat, NUL-terminated names of xattrs)"},
    {"read_small", read_small, METH_VARARGS, "read_small(dir_fd, names, limit, buffer) -> [Stat or None, ...]"},
    {NULL, NULL, 0, NULL},
};

static int
module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    state->stat_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &stat_spec, NULL);
    if (state->stat_type == NULL) {
        return -1;
    }
    for (int kind = 0; kind < KINDS; kind++) {
        state->kinds[kind] = PyUnicode_InternFromString(KIND_NAMES[kind]);
        if (state->kinds[kind] == NULL) {
            return -1;
        }
    }
    return PyModule_AddType(module, state->stat_type);
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    Py_VISIT(((State *)PyModule_GetState(module))->stat_type);
    return 0;
}

static int
module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->stat_type);
    for (int kind = 0; kind < KINDS; kind++) {
        Py_CLEAR(state->kinds[kind]);
    }
    return 0;
}

static void
module_free(void *module)
{
    module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "bfrepo.localfs._scan",
    .m_doc = "Directory listings with everything statx tells, one call each.",
    .m_size = sizeof(State),
    .m_methods = methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC
PyInit__scan(void)
{
    return PyModuleDef_Init(&module_definition);
}
