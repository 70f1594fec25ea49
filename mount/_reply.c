/* A reply to the kernel without the interpreter's lock.
 *
 * pyfuse3 keeps the lock while it hands a reply to the kernel, which copies it: 0.3 ms for 1 MiB. For so long no other
 * thread gets on with the frames that are read next, and a processor is idle. So this module has a function of the name
 * by which pyfuse3 calls libfuse's, and lets go of the lock around the real one. Loaded before pyfuse3, for all to see
 * (RTLD_GLOBAL), it is what the dynamic linker finds first.
 *
 * pyfuse3 calls it in the thread of the event loop, always with the lock, for reads, listings and extended attributes.
 * libfuse calls it in its high-level interface alone, which pyfuse3 does not use.
 */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dlfcn.h>
#include <errno.h>

#define LARGE (64 * 1024)             /* bytes from which on copying takes longer than getting the lock back may */

typedef int (*reply_function)(void *request, const char *data, size_t size);

static reply_function real;

int fuse_reply_buf(void *request, const char *data, size_t size)
{
    PyThreadState *state;
    int status;

    if (real == NULL)
        return -ENOSYS;
    if (size < LARGE)
        return real(request, data, size);
    state = PyEval_SaveThread();
    status = real(request, data, size);
    PyEval_RestoreThread(state);
    return status;
}

static PyObject *stand_for(PyObject *module, PyObject *argument)
{
    PyObject *path;
    void *library;

    (void)module;
    if (!PyUnicode_FSConverter(argument, &path))
        return NULL;
    library = dlopen(PyBytes_AsString(path), RTLD_LAZY | RTLD_NOLOAD);
    Py_DECREF(path);
    if (library == NULL) {
        PyErr_SetString(PyExc_OSError, "the library is not loaded");
        return NULL;
    }
    real = (reply_function)dlsym(library, "fuse_reply_buf"); /* its own, or that of a library it needs: never ours */
    dlclose(library);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"stand_for", stand_for, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_reply", NULL, 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__reply(void)
{
    return PyModule_Create(&definition);
}
