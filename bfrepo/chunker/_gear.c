/* The kernel of the content-defined chunker: finds cut points with a gear rolling hash, and recognises runs of zeros.
 *
 * The algorithm is FastCDC with normalised chunking: W. Xia et al., "FastCDC: a Fast and Efficient Content-Defined
 * Chunking Approach for Data Deduplication", USENIX ATC 2016, and "The Design of Fast Content-Defined Chunking for Data
 * Deduplication Based Storage Systems", IEEE TPDS 31(9), 2020. `cut_reference` in fastcdc.py is the same in plain
 * Python and is the oracle of the tests; the two must agree on every input, because a repository is only as well
 * deduplicated as its cut points are stable.
 *
 * What is fixed for ever, as far as deduplication goes:
 *
 *   hash(e)      the gear hash of the 64 bytes in front of offset e: the sum of table[data[e - 1 - k]] << k for k in
 *                0..63, modulo 2^64. Older bytes have been shifted out, so the hash belongs to the place and not to the
 *                chunk: it does not matter where the scan began. This is also why 64 is the least minimum.
 *   hit          the highest bits of hash(e), which depend on the most bytes, are zero. With average = 2^b: the
 *                highest b + 2 for a chunk shorter than the average, b - 2 from there on (normalisation level 2). The
 *                paper masks and compares with zero; for the highest bits that is "less than a power of two".
 *   cut points   the first hit e with minimum <= e - begin < maximum, else begin + maximum, else the end of the data
 *                if it is final.
 *
 * How it is fast: a hash that belongs to the place lets four lanes run through four stretches of a block side by side,
 * so that the processor does not wait for one addition after the other. Blocks with a hit are rare (one in a chunk);
 * they are gone through again, byte by byte, for the first hit. A block of one repeated byte has one hash,
 * -table[byte], so that runs of zeros pass at the speed of memory.
 *
 * Threads: no state. The scan runs without the GIL while it holds the caller's buffer. Whoever writes into the buffer
 * meanwhile gets arbitrary cut points, within the limits of length all the same; nothing outside is ever read.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define TABLE_ENTRIES 256
#define TABLE_BYTES (TABLE_ENTRIES * 8)
#define WINDOW 64                     /* bytes that a 64-bit gear hash remembers */
#define NORMALISATION 2               /* bits added below the average and dropped above it */
#define LARGEST_MAXIMUM (1 << 30)     /* far above any sensible chunk; keeps sums of sizes within 32 bits */

#define LANES 4
#define STRIDE 8192                   /* bytes per lane: short against a chunk, long for a processor's prefetcher */
#define BLOCK ((size_t)LANES * STRIDE)

typedef struct {
    uint64_t table[TABLE_ENTRIES];
    uint64_t limit_short;             /* a hash below it is a hit, in a chunk shorter than the average */
    uint64_t limit_long;              /* the same from the average on: larger, so that hits are likelier */
    size_t minimum, average, maximum;
} Gear;

/* The hash of the 63 bytes in front of p: one more byte completes the window. */
static uint64_t warm_up(const uint8_t *p, const uint64_t *table)
{
    uint64_t hash = 0;
    for (int i = 1 - WINDOW; i < 0; i++)
        hash = (hash << 1) + table[p[i]];
    return hash;
}

/* The index of the first of n bytes that completes a window with a hash below the limit, or n. Reads 63 before p. */
static size_t first_hit_serial(const uint8_t *p, size_t n, uint64_t limit, const uint64_t *table)
{
    uint64_t hash = warm_up(p, table);
    for (size_t i = 0; i < n; i++) {
        hash = (hash << 1) + table[p[i]];
        if (hash < limit)
            return i;
    }
    return n;
}

#define STEP(lane, offset)                                          \
    hash##lane = (hash##lane << 1) + table[lane##_at[i + (offset)]]; \
    if (hash##lane < limit)                                         \
        return 1;
#define STEP_ALL(offset) STEP(a, offset) STEP(b, offset) STEP(c, offset) STEP(d, offset)

/* Whether any byte of the block at p is a hit. Reads 63 bytes before p. */
static int block_has_hit(const uint8_t *p, uint64_t limit, const uint64_t *table)
{
    const uint8_t *a_at = p, *b_at = p + STRIDE, *c_at = p + 2 * STRIDE, *d_at = p + 3 * STRIDE;
    uint64_t hasha = warm_up(a_at, table), hashb = warm_up(b_at, table);
    uint64_t hashc = warm_up(c_at, table), hashd = warm_up(d_at, table);
    for (size_t i = 0; i < STRIDE; i += 4) {
        STEP_ALL(0) STEP_ALL(1) STEP_ALL(2) STEP_ALL(3)
    }
    return 0;
}

#undef STEP_ALL
#undef STEP

/* Whether the n > 0 bytes at p are all the same. memcmp stops at the first difference: ordinary data costs nothing. */
static int is_uniform(const uint8_t *p, size_t n)
{
    return memcmp(p, p + 1, n - 1) == 0;
}

/* As first_hit_serial, by blocks. */
static size_t first_hit(const uint8_t *p, size_t n, uint64_t limit, const uint64_t *table)
{
    size_t done = 0;
    for (; n - done >= BLOCK; done += BLOCK) {
        const uint8_t *block = p + done;
        if (is_uniform(block - (WINDOW - 1), BLOCK + WINDOW - 1)) {
            if (0 - table[*block] < limit)
                return done;
        } else if (block_has_hit(block, limit, table)) {
            size_t hit = first_hit_serial(block, BLOCK, limit, table);
            if (hit < BLOCK)          /* always, unless somebody writes into the buffer at this moment */
                return done + hit;
        }
    }
    return done + first_hit_serial(p + done, n - done, limit, table);
}

/* The length of the chunk that begins at p, of which `available` bytes are there; 0 when these do not decide it. */
static size_t chunk_length(const Gear *gear, const uint8_t *p, size_t available)
{
    size_t bound = available < gear->maximum ? available + 1 : gear->maximum;   /* lengths below it can be looked at */
    size_t turn = bound < gear->average ? bound : gear->average;
    size_t length = gear->minimum;

    if (length < turn) {
        length += first_hit(p + length - 1, turn - length, gear->limit_short, gear->table);
        if (length < turn)
            return length;
    }
    if (length < bound)
        length += first_hit(p + length - 1, bound - length, gear->limit_long, gear->table);
    if (length < bound)
        return length;
    return available >= gear->maximum ? gear->maximum : 0;
}

/* Writes the end offsets of the chunks in data[start:end] and returns how many; at most (end - start) / minimum + 1. */
static size_t cut_all(const Gear *gear, const uint8_t *data, size_t start, size_t end, int final, size_t *ends)
{
    size_t count = 0;
    while (start < end) {
        size_t length = chunk_length(gear, data + start, end - start);
        if (length == 0) {
            if (!final)
                break;
            length = end - start;
        }
        start += length;
        ends[count++] = start;
    }
    return count;
}

static int check_range(Py_ssize_t start, Py_ssize_t end, Py_ssize_t length)
{
    if (start < 0 || end < start || end > length) {
        PyErr_Format(PyExc_ValueError, "range %zd:%zd does not lie within %zd bytes", start, end, length);
        return -1;
    }
    return 0;
}

static int check_sizes(Py_ssize_t minimum, Py_ssize_t average, Py_ssize_t maximum)
{
    if (minimum < WINDOW || average <= minimum || maximum <= average || maximum > LARGEST_MAXIMUM) {
        PyErr_Format(PyExc_ValueError, "chunk sizes must be %d <= minimum < average < maximum <= %d, not %zd, %zd, %zd",
                     WINDOW, LARGEST_MAXIMUM, minimum, average, maximum);
        return -1;
    }
    if ((average & (average - 1)) != 0) {
        PyErr_Format(PyExc_ValueError, "the average chunk size must be a power of two, not %zd", average);
        return -1;
    }
    return 0;
}

static int load_table(Gear *gear, const Py_buffer *table)
{
    if (table->len != TABLE_BYTES) {
        PyErr_Format(PyExc_ValueError, "the gear table must have %d bytes, not %zd", TABLE_BYTES, table->len);
        return -1;
    }
    const uint8_t *bytes = table->buf;
    for (int i = 0; i < TABLE_ENTRIES; i++) {
        uint64_t entry = 0;
        for (int k = 7; k >= 0; k--)
            entry = entry << 8 | bytes[i * 8 + k];
        gear->table[i] = entry;
    }
    return 0;
}

static void load_sizes(Gear *gear, Py_ssize_t minimum, Py_ssize_t average, Py_ssize_t maximum)
{
    int bits = 0;
    while (((Py_ssize_t)1 << bits) < average)
        bits++;
    gear->limit_short = (uint64_t)1 << (64 - (bits + NORMALISATION));
    gear->limit_long = (uint64_t)1 << (64 - (bits - NORMALISATION));
    gear->minimum = (size_t)minimum;
    gear->average = (size_t)average;
    gear->maximum = (size_t)maximum;
}

static PyObject *list_of(const size_t *ends, size_t count)
{
    PyObject *list = PyList_New((Py_ssize_t)count);
    if (list == NULL)
        return NULL;
    for (size_t i = 0; i < count; i++) {
        PyObject *end = PyLong_FromSize_t(ends[i]);
        if (end == NULL || PyList_SetItem(list, (Py_ssize_t)i, end) < 0) {   /* takes the reference in any case */
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

/* Everything of `cut` between taking and releasing the buffers. */
static PyObject *cut_buffers(const Py_buffer *data, Py_ssize_t start, Py_ssize_t end, int final, const Py_buffer *table,
                             Py_ssize_t minimum, Py_ssize_t average, Py_ssize_t maximum)
{
    Gear gear;
    if (check_range(start, end, data->len) < 0 || check_sizes(minimum, average, maximum) < 0)
        return NULL;
    if (load_table(&gear, table) < 0)
        return NULL;
    load_sizes(&gear, minimum, average, maximum);

    size_t most = (size_t)(end - start) / gear.minimum + 1;
    size_t *ends = PyMem_Malloc(most * sizeof *ends);
    if (ends == NULL)
        return PyErr_NoMemory();
    size_t count;
    Py_BEGIN_ALLOW_THREADS
    count = cut_all(&gear, data->buf, (size_t)start, (size_t)end, final, ends);
    Py_END_ALLOW_THREADS
    PyObject *list = list_of(ends, count);
    PyMem_Free(ends);
    return list;
}

PyDoc_STRVAR(cut_doc,
"cut(data, start, end, final, table, minimum, average, maximum, /)\n--\n\n"
"The end offsets of the chunks in data[start:end].\n\n"
"Unless `final`, the last chunk is left out when the bytes at hand do not decide its end. `table` holds 256\n"
"little-endian 64-bit numbers. Raises ValueError for a range outside the data, sizes that make no sense, or a table\n"
"of another length.");

static PyObject *gear_cut(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer data, table;
    Py_ssize_t start, end, minimum, average, maximum;
    int final;
    if (!PyArg_ParseTuple(args, "y*nnpy*nnn:cut", &data, &start, &end, &final, &table, &minimum, &average, &maximum))
        return NULL;
    PyObject *result = cut_buffers(&data, start, end, final, &table, minimum, average, maximum);
    PyBuffer_Release(&table);
    PyBuffer_Release(&data);
    return result;
}

PyDoc_STRVAR(is_zero_doc,
"is_zero(data, start, end, /)\n--\n\n"
"Whether data[start:end] holds nothing but zeros; true for an empty range.\n\n"
"Raises ValueError for a range outside the data.");

static PyObject *gear_is_zero(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer data;
    Py_ssize_t start, end;
    int zero;
    if (!PyArg_ParseTuple(args, "y*nn:is_zero", &data, &start, &end))
        return NULL;
    if (check_range(start, end, data.len) < 0) {
        PyBuffer_Release(&data);
        return NULL;
    }
    const uint8_t *p = (const uint8_t *)data.buf + start;
    Py_BEGIN_ALLOW_THREADS
    zero = start == end || (*p == 0 && is_uniform(p, (size_t)(end - start)));
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    return PyBool_FromLong(zero);
}

static PyMethodDef gear_methods[] = {
    {"cut", gear_cut, METH_VARARGS, cut_doc},
    {"is_zero", gear_is_zero, METH_VARARGS, is_zero_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot gear_slots[] = {
    {0, NULL},
};

static struct PyModuleDef gear_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_gear",
    .m_doc = "Gear rolling hash: cut points and runs of zeros.",
    .m_size = 0,
    .m_methods = gear_methods,
    .m_slots = gear_slots,
};

PyMODINIT_FUNC PyInit__gear(void)
{
    return PyModuleDef_Init(&gear_module);
}
