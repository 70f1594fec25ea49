/* Many small files, each made complete, in one call without the GIL.
 *
 *   make_files(files)    for each: openat, write, fstat, fchown where it takes one, fchmod, futimens, close
 *
 * Why it is not os.open and its fellows: a restore makes a hundred thousand small files with several threads. Six calls for each, every
 * one giving the GIL away and waiting to have it back, take longer than the calls themselves, and two threads that do so wait for
 * each other most of the time.
 *
 * May be called from any thread; nothing is kept between calls. _make.pyi has the types, tests/localfs/test_make.py the oracle.
 */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEEP ((uint32_t)-1) /* an owner that is not to be changed, as in chown(2) */

/* One file that is wanted, and what became of it. */
typedef struct {
    int dir_fd;
    const char *name;
    Py_buffer content; /* only its `buf` and `len` are used without the GIL */
    mode_t mode;
    uint32_t uid, gid;
    int64_t atime_ns, mtime_ns;
    int error;    /* an errno: it could not be made, and nothing was left behind */
    int metadata; /* an errno: it was made, but not all its metadata could be set */
} File;

/* ---- asking the system; no Python below this line until the next one ---- */

static int
write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, data, size);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0) {
            return errno;
        }
        data += written;
        size -= (size_t)written;
    }
    return 0;
}

/* Rounded down, so that what remains is never negative. */
static struct timespec
timespec_of(int64_t ns)
{
    int64_t seconds = ns / 1000000000, rest = ns % 1000000000;
    if (rest < 0) {
        seconds -= 1;
        rest += 1000000000;
    }
    return (struct timespec){.tv_sec = seconds, .tv_nsec = rest};
}

/* The order is that of apply.py. An errno, or 0. */
static int
set_metadata(int fd, const File *file)
{
    struct stat now;
    if (fstat(fd, &now) < 0) {
        return errno;
    }
    uid_t uid = file->uid == now.st_uid ? KEEP : file->uid;
    gid_t gid = file->gid == now.st_gid ? KEEP : file->gid;
    struct timespec times[2] = {timespec_of(file->atime_ns), timespec_of(file->mtime_ns)};
    if ((uid != KEEP || gid != KEEP) && fchown(fd, uid, gid) < 0) {
        return errno;
    }
    if (fchmod(fd, file->mode) < 0 || futimens(fd, times) < 0) {
        return errno;
    }
    return 0;
}

static void
make(File *file)
{
    int fd;
    do {
        fd = openat(file->dir_fd, file->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY, 0600);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        file->error = errno;
        return;
    }
    file->error = write_all(fd, file->content.buf, (size_t)file->content.len);
    if (file->error == 0) {
        file->metadata = set_metadata(fd, file);
    }
    if (close(fd) < 0 && file->error == 0 && errno != EINTR) {
        file->error = errno; /* a network file system may tell only now that there is no room */
    }
    if (file->error != 0) {
        unlinkat(file->dir_fd, file->name, 0);
    }
}

/* ---- Python ---- */

/* Read one tuple; the buffer is held until it is released. 0, or -1 with an exception and no buffer held. */
static int
file_parse(File *file, PyObject *tuple)
{
    PyObject *name;
    char *text;
    long long uid, gid, atime_ns, mtime_ns;
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "each file is a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(tuple, "iSy*ILLLL:make_files", &file->dir_fd, &name, &file->content, &file->mode, &uid, &gid,
                          &atime_ns, &mtime_ns)) {
        return -1;
    }
    if (PyBytes_AsStringAndSize(name, &text, NULL) < 0) { /* a NUL in a name is an error */
        PyBuffer_Release(&file->content);
        return -1;
    }
    file->name = text; /* the caller's list holds the tuple, the tuple the name */
    file->uid = (uint32_t)uid;
    file->gid = (uint32_t)gid;
    file->atime_ns = atime_ns;
    file->mtime_ns = mtime_ns;
    file->error = file->metadata = 0;
    return 0;
}

/* A list of (index, errno, errno of metadata) for what did not go well. */
static PyObject *
failures(const File *files, Py_ssize_t count)
{
    PyObject *result = PyList_New(0);
    for (Py_ssize_t i = 0; i < count && result != NULL; i++) {
        if (files[i].error == 0 && files[i].metadata == 0) {
            continue;
        }
        PyObject *item = Py_BuildValue("(nii)", i, files[i].error, files[i].metadata);
        if (item == NULL || PyList_Append(result, item) < 0) {
            Py_CLEAR(result);
        }
        Py_XDECREF(item);
    }
    return result;
}

static PyObject *
make_files(PyObject *Py_UNUSED(module), PyObject *list)
{
    PyObject *tuple = PySequence_Tuple(list); /* nobody else can change this one while the GIL is away */
    if (tuple == NULL) {
        return NULL;
    }
    PyObject *result = NULL;
    Py_ssize_t count = PyTuple_Size(tuple), parsed = 0;
    File *files = calloc((size_t)count + 1, sizeof(File));
    if (files == NULL) {
        PyErr_NoMemory();
    }
    while (files != NULL && parsed < count && file_parse(&files[parsed], PyTuple_GetItem(tuple, parsed)) == 0) {
        parsed++;
    }
    if (files != NULL && parsed == count) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < count; i++) {
            make(&files[i]);
        }
        Py_END_ALLOW_THREADS
        result = failures(files, count);
    }
    while (parsed > 0) {
        PyBuffer_Release(&files[--parsed].content);
    }
    free(files);
    Py_DECREF(tuple);
    return result;
}

static PyMethodDef methods[] = {
    {"make_files", make_files, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_make",
    .m_size = 0,
    .m_methods = methods,
};

PyMODINIT_FUNC
PyInit__make(void)
{
    return PyModuleDef_Init(&module);
}
