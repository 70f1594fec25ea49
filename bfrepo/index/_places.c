/* Where every blob is: a hash table from blob IDs to places that is filled, asked and marked many blobs at a time.
 *
 * Two columns, in the order in which blobs came: IDs of 32 bytes, and places of three little-endian 32-bit numbers
 * (frame, offset in its plaintext, size). The number of a row is the blob's position, and stays for as long as the
 * table lives; nothing is ever taken out. Slots of 4 bytes, a power of two of them and at most two thirds in use, lead
 * from an ID to its row: open addressing, linear probing (Knuth, The Art of Computer Programming, 6.4). IDs are hashes
 * already, so 8 bytes of one, multiplied by 2^64 over the golden ratio (same place, multiplicative hashing), choose its
 * slot. A blob takes 50 to 60 bytes.
 *
 * A table of millions of blobs is far larger than any processor's cache: what a lookup costs is waiting for memory,
 * twice, for the slot and for the ID. Whoever asks for many at a time waits for several at once, because slots and IDs
 * further ahead are fetched while nearer ones are compared.
 *
 * A place whose frame is PENDING says that its blob is being stored.
 *
 * Threads: every call holds the interpreter's lock from beginning to end, so it is one step for everybody else.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#define ID_SIZE 32
#define PLACE_SIZE 12
#define PENDING 0xFFFFFFFFu           /* as a frame: being stored */
#define FREE 0xFFFFFFFFu              /* as what a slot holds: no row */
#define LEAST_BITS 10
#define NEAR 8                        /* so many IDs ahead the row is fetched, and twice as many ahead the slot */

#if defined(__GNUC__)
#define FETCH(address) __builtin_prefetch(address)
#else
#define FETCH(address) ((void)(address))
#endif

typedef struct {
    PyObject_HEAD
    uint8_t *ids;
    uint8_t *places;
    uint32_t *slots;
    size_t count;                     /* rows in use */
    size_t room;                      /* rows there is memory for */
    unsigned bits;                    /* 2^bits slots */
} PlaceMap;

static uint32_t load_number(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void store_number(uint8_t *p, uint32_t number)
{
    p[0] = (uint8_t)number;
    p[1] = (uint8_t)(number >> 8);
    p[2] = (uint8_t)(number >> 16);
    p[3] = (uint8_t)(number >> 24);
}

static size_t first_slot(const PlaceMap *map, const uint8_t *id)
{
    uint64_t head;
    memcpy(&head, id, sizeof head);
    return (size_t)(head * 0x9E3779B97F4A7C15u >> (64 - map->bits));
}

/* The row of an ID, or FREE; `slot` is where it stands, or may be put. */
static uint32_t find(const PlaceMap *map, const uint8_t *id, size_t *slot)
{
    size_t at = first_slot(map, id), mask = ((size_t)1 << map->bits) - 1;
    uint32_t row;
    while ((row = map->slots[at]) != FREE && memcmp(map->ids + (size_t)row * ID_SIZE, id, ID_SIZE) != 0)
        at = (at + 1) & mask;
    *slot = at;
    return row;
}

/* Have memory fetched for the IDs that are asked for soon after number i of n. */
static void fetch_ahead(const PlaceMap *map, const uint8_t *ids, size_t i, size_t n)
{
    if (i + 2 * NEAR < n)
        FETCH(map->slots + first_slot(map, ids + (i + 2 * NEAR) * ID_SIZE));
    if (i + NEAR < n) {
        uint32_t row = map->slots[first_slot(map, ids + (i + NEAR) * ID_SIZE)];
        if (row != FREE)
            FETCH(map->ids + (size_t)row * ID_SIZE);
    }
}

/* --- growing --- */

static int grow_columns(PlaceMap *map, size_t room)
{
    uint8_t *ids = PyMem_Realloc(map->ids, room * ID_SIZE);
    if (ids == NULL)
        return -1;
    map->ids = ids;
    uint8_t *places = PyMem_Realloc(map->places, room * PLACE_SIZE);
    if (places == NULL)
        return -1;
    map->places = places;
    map->room = room;
    return 0;
}

static int grow_slots(PlaceMap *map, unsigned bits)
{
    size_t slots = (size_t)1 << bits, mask = slots - 1;
    uint32_t *fresh = PyMem_Malloc(slots * sizeof *fresh);
    if (fresh == NULL)
        return -1;
    PyMem_Free(map->slots);
    map->slots = memset(fresh, 0xFF, slots * sizeof *fresh);
    map->bits = bits;
    for (size_t row = 0; row < map->count; row++) {
        if (row + 2 * NEAR < map->count)
            FETCH(fresh + first_slot(map, map->ids + (row + 2 * NEAR) * ID_SIZE));
        size_t at = first_slot(map, map->ids + row * ID_SIZE);
        while (fresh[at] != FREE)
            at = (at + 1) & mask;
        fresh[at] = (uint32_t)row;
    }
    return 0;
}

/* Make sure that `more` rows can be added. */
static int make_room(PlaceMap *map, size_t more)
{
    if (more >= FREE - map->count) {
        PyErr_SetString(PyExc_OverflowError, "more blobs than 32 bits can number");
        return -1;
    }
    size_t needed = map->count + more, quarter_more = map->room + map->room / 4;
    if (needed > map->room && grow_columns(map, needed > quarter_more ? needed : quarter_more) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    unsigned bits = map->bits;
    while (needed > ((size_t)1 << bits) / 3 * 2)
        bits++;
    if (bits != map->bits && grow_slots(map, bits) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

/* Add a row for which there is room, at the slot that `find` gave. */
static void add_row(PlaceMap *map, size_t slot, const uint8_t *id, const uint8_t *place)
{
    memcpy(map->ids + map->count * ID_SIZE, id, ID_SIZE);
    memcpy(map->places + map->count * PLACE_SIZE, place, PLACE_SIZE);
    map->slots[slot] = (uint32_t)map->count++;
}

/* --- what Python hands over --- */

/* The bytes of one ID, or NULL with an error. */
static const uint8_t *one_id(PyObject *object)
{
    char *bytes;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(object, &bytes, &size) < 0)
        return NULL;
    if (size != ID_SIZE) {
        PyErr_Format(PyExc_ValueError, "an ID has %d bytes, not %zd", ID_SIZE, size);
        return NULL;
    }
    return (const uint8_t *)bytes;
}

static int check_ids(const Py_buffer *ids)
{
    if (ids->len % ID_SIZE == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "IDs have %d bytes each: %zd is no multiple", ID_SIZE, ids->len);
    return -1;
}

static int check_marks(const PlaceMap *map, const Py_buffer *marks)
{
    if ((size_t)marks->len >= map->count)
        return 0;
    PyErr_Format(PyExc_ValueError, "there are %zu blobs, and marks for %zd", map->count, marks->len);
    return -1;
}

static PyObject *place_bytes(const uint8_t *place)
{
    return PyBytes_FromStringAndSize((const char *)place, PLACE_SIZE);
}

/* Put the pair (ID, place) behind the others. */
static int append_pair(PyObject *list, const uint8_t *id, const uint8_t *place)
{
    PyObject *pair = Py_BuildValue("(y#y#)", id, (Py_ssize_t)ID_SIZE, place, (Py_ssize_t)PLACE_SIZE);
    if (pair == NULL)
        return -1;
    int failed = PyList_Append(list, pair);
    Py_DECREF(pair);
    return failed;
}

static int append_number(PyObject *list, uint32_t number)
{
    PyObject *object = PyLong_FromUnsignedLong(number);
    if (object == NULL)
        return -1;
    int failed = PyList_Append(list, object);
    Py_DECREF(object);
    return failed;
}

static int append_id(PyObject *list, const uint8_t *id)
{
    PyObject *object = PyBytes_FromStringAndSize((const char *)id, ID_SIZE);
    if (object == NULL)
        return -1;
    int failed = PyList_Append(list, object);
    Py_DECREF(object);
    return failed;
}

/* --- one blob --- */

PyDoc_STRVAR(get_doc, "get(blob_id, /)\n--\n\nThe place of a blob, 12 bytes, or None.");

static PyObject *map_get(PlaceMap *map, PyObject *object)
{
    const uint8_t *id = one_id(object);
    if (id == NULL)
        return NULL;
    size_t slot;
    uint32_t row = find(map, id, &slot);
    if (row == FREE)
        Py_RETURN_NONE;
    return place_bytes(map->places + (size_t)row * PLACE_SIZE);
}

PyDoc_STRVAR(set_doc, "set(blob_id, place, /)\n--\n\nGive a blob, known or new, this place of 12 bytes.");

static PyObject *map_set(PlaceMap *map, PyObject *args)
{
    PyObject *object;
    const char *place;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "Sy#:set", &object, &place, &size))
        return NULL;
    const uint8_t *id = one_id(object);
    if (id == NULL)
        return NULL;
    if (size != PLACE_SIZE)
        return PyErr_Format(PyExc_ValueError, "a place has %d bytes, not %zd", PLACE_SIZE, size);
    if (make_room(map, 1) < 0)
        return NULL;
    size_t slot;
    uint32_t row = find(map, id, &slot);
    if (row == FREE)
        add_row(map, slot, id, (const uint8_t *)place);
    else
        memcpy(map->places + (size_t)row * PLACE_SIZE, place, PLACE_SIZE);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(position_doc, "position(blob_id, /)\n--\n\nThe number of a blob. Raises KeyError.");

static PyObject *map_position(PlaceMap *map, PyObject *object)
{
    const uint8_t *id = one_id(object);
    if (id == NULL)
        return NULL;
    size_t slot;
    uint32_t row = find(map, id, &slot);
    if (row == FREE) {
        PyErr_SetObject(PyExc_KeyError, object);
        return NULL;
    }
    return PyLong_FromUnsignedLong(row);
}

PyDoc_STRVAR(at_doc, "at(position, /)\n--\n\nThe blob with that number: its ID and its place. Raises IndexError.");

static PyObject *map_at(PlaceMap *map, PyObject *object)
{
    size_t row = PyLong_AsSize_t(object);
    if (row == (size_t)-1 && PyErr_Occurred())
        return NULL;
    if (row >= map->count)
        return PyErr_Format(PyExc_IndexError, "there is no blob %zu: there are %zu", row, map->count);
    return Py_BuildValue("(y#y#)", map->ids + row * ID_SIZE, (Py_ssize_t)ID_SIZE, map->places + row * PLACE_SIZE,
                         (Py_ssize_t)PLACE_SIZE);
}

static int map_contains(PlaceMap *map, PyObject *object)
{
    const uint8_t *id = one_id(object);
    size_t slot;
    return id == NULL ? -1 : find(map, id, &slot) != FREE;
}

static Py_ssize_t map_length(PlaceMap *map)
{
    return (Py_ssize_t)map->count;
}

/* --- many blobs --- */

PyDoc_STRVAR(extend_doc,
"extend(blob_ids, places, /)\n--\n\n"
"Give each of some blobs, known or new, its place. Raises ValueError when there is not one place for each ID.");

static PyObject *extend_buffers(PlaceMap *map, const Py_buffer *ids, const Py_buffer *places)
{
    size_t n = (size_t)ids->len / ID_SIZE;
    if (check_ids(ids) < 0)
        return NULL;
    if ((size_t)places->len != n * PLACE_SIZE)
        return PyErr_Format(PyExc_ValueError, "%zu IDs have places of %zd bytes", n, places->len);
    if (make_room(map, n) < 0)
        return NULL;
    const uint8_t *id = ids->buf, *place = places->buf;
    for (size_t i = 0; i < n; i++, id += ID_SIZE, place += PLACE_SIZE) {
        size_t slot;
        fetch_ahead(map, ids->buf, i, n);
        uint32_t row = find(map, id, &slot);
        if (row == FREE)
            add_row(map, slot, id, place);
        else
            memcpy(map->places + (size_t)row * PLACE_SIZE, place, PLACE_SIZE);
    }
    Py_RETURN_NONE;
}

static PyObject *map_extend(PlaceMap *map, PyObject *args)
{
    Py_buffer ids, places;
    if (!PyArg_ParseTuple(args, "y*y*:extend", &ids, &places))
        return NULL;
    PyObject *result = extend_buffers(map, &ids, &places);
    PyBuffer_Release(&places);
    PyBuffer_Release(&ids);
    return result;
}

PyDoc_STRVAR(add_frames_doc,
"add_frames(blob_ids, counts, sizes, first_frame, /)\n--\n\n"
"Take in the blobs of frames that follow one another from `first_frame` on: how many each holds, and their sizes, as\n"
"32-bit numbers of this machine. A blob that has a place already keeps it; such blobs are given back, each with the\n"
"place that it has here as well. Raises ValueError when the columns do not fit together.");

/* The blobs of one frame. Gives 0, or -1 with an error. */
static int add_frame(PlaceMap *map, const uint8_t *ids, const uint32_t *sizes, size_t n, uint32_t frame, PyObject *known)
{
    uint8_t place[PLACE_SIZE];
    uint32_t offset = 0;
    store_number(place, frame);
    for (size_t i = 0; i < n; i++) {
        const uint8_t *id = ids + i * ID_SIZE;
        size_t slot;
        fetch_ahead(map, ids, i, n);
        store_number(place + 4, offset);
        store_number(place + 8, sizes[i]);
        offset += sizes[i];
        uint32_t row = find(map, id, &slot);
        if (row == FREE)
            add_row(map, slot, id, place);
        else if (load_number(map->places + (size_t)row * PLACE_SIZE) == PENDING)
            memcpy(map->places + (size_t)row * PLACE_SIZE, place, PLACE_SIZE);
        else if (append_pair(known, id, place) < 0 || make_room(map, n - i) < 0)   /* a collection may let others in */
            return -1;
    }
    return 0;
}

static PyObject *add_buffers(PlaceMap *map, const Py_buffer *ids, const Py_buffer *counts, const Py_buffer *sizes,
                             uint32_t frame)
{
    const uint32_t *count = counts->buf, *size = sizes->buf;
    size_t n = (size_t)ids->len / ID_SIZE, frames = (size_t)counts->len / sizeof *count, sum = 0;
    for (size_t i = 0; i < frames; i++)
        sum += count[i];
    if (check_ids(ids) < 0)
        return NULL;
    if (sum != n || (size_t)sizes->len != n * sizeof *size || frames > PENDING - frame)
        return PyErr_Format(PyExc_ValueError, "%zu blobs in %zu frames have %zu IDs and sizes of %zd bytes", sum, frames,
                            n, sizes->len);
    if (make_room(map, n) < 0)
        return NULL;
    PyObject *known = PyList_New(0);
    const uint8_t *id = ids->buf;
    for (size_t i = 0; known != NULL && i < frames; i++) {
        if (add_frame(map, id, size, count[i], frame + (uint32_t)i, known) < 0)
            Py_CLEAR(known);
        id += count[i] * (size_t)ID_SIZE;
        size += count[i];
    }
    return known;
}

static PyObject *map_add_frames(PlaceMap *map, PyObject *args)
{
    Py_buffer ids, counts, sizes;
    unsigned int frame;
    if (!PyArg_ParseTuple(args, "y*y*y*I:add_frames", &ids, &counts, &sizes, &frame))
        return NULL;
    PyObject *result = add_buffers(map, &ids, &counts, &sizes, frame);
    PyBuffer_Release(&sizes);
    PyBuffer_Release(&counts);
    PyBuffer_Release(&ids);
    return result;
}

PyDoc_STRVAR(places_doc,
"places(blob_ids, /)\n--\n\n"
"The places of blobs, 12 bytes each. One that is not known has frame 0xFFFFFFFF.");

static PyObject *map_places(PlaceMap *map, PyObject *args)
{
    Py_buffer ids;
    if (!PyArg_ParseTuple(args, "y*:places", &ids))
        return NULL;
    size_t n = (size_t)ids.len / ID_SIZE;
    PyObject *result = check_ids(&ids) < 0 ? NULL : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(n * PLACE_SIZE));
    if (result != NULL) {
        uint8_t *out = (uint8_t *)PyBytes_AsString(result);
        for (size_t i = 0; i < n; i++) {
            size_t slot;
            fetch_ahead(map, ids.buf, i, n);
            uint32_t row = find(map, (const uint8_t *)ids.buf + i * ID_SIZE, &slot);
            if (row != FREE)
                memcpy(out + i * PLACE_SIZE, map->places + (size_t)row * PLACE_SIZE, PLACE_SIZE);
            else
                memset(out + i * PLACE_SIZE, 0xFF, PLACE_SIZE);
        }
    }
    PyBuffer_Release(&ids);
    return result;
}

PyDoc_STRVAR(rows_doc,
"rows(start, stop, /)\n--\n\n"
"The IDs of the blobs with numbers from `start` up to `stop`, and their places, each column as bytes. Blobs that are\n"
"being stored are left out. Raises IndexError when there are not so many.");

static PyObject *map_rows(PlaceMap *map, PyObject *args)
{
    Py_ssize_t start, stop;
    if (!PyArg_ParseTuple(args, "nn:rows", &start, &stop))
        return NULL;
    if (start < 0 || stop < start || (size_t)stop > map->count)
        return PyErr_Format(PyExc_IndexError, "there are %zu blobs, not %zd to %zd", map->count, start, stop);
    uint8_t *ids = PyMem_Malloc((size_t)(stop - start) * (ID_SIZE + PLACE_SIZE) + 1);
    if (ids == NULL)
        return PyErr_NoMemory();
    uint8_t *places = ids + (size_t)(stop - start) * ID_SIZE;
    Py_ssize_t n = 0;
    for (size_t row = (size_t)start; row < (size_t)stop; row++) {
        const uint8_t *place = map->places + row * PLACE_SIZE;
        if (load_number(place) == PENDING)
            continue;
        memcpy(ids + n * ID_SIZE, map->ids + row * ID_SIZE, ID_SIZE);
        memcpy(places + n * PLACE_SIZE, place, PLACE_SIZE);
        n++;
    }
    PyObject *result = Py_BuildValue("(y#y#)", ids, n * ID_SIZE, places, n * PLACE_SIZE);
    PyMem_Free(ids);
    return result;
}

/* --- marks: a byte for each blob, by its number --- */

PyDoc_STRVAR(mark_doc,
"mark(blob_ids, marks, bits, /)\n--\n\n"
"Set bits in the marks of blobs; a list of the IDs that are not known. `marks` has a byte for each blob, by number.\n"
"Raises ValueError when it has fewer.");

static PyObject *mark_buffers(const PlaceMap *map, const Py_buffer *ids, const Py_buffer *marks, unsigned char bits)
{
    if (check_ids(ids) < 0 || check_marks(map, marks) < 0)
        return NULL;
    PyObject *missing = PyList_New(0);
    size_t n = (size_t)ids->len / ID_SIZE;
    for (size_t i = 0; missing != NULL && i < n; i++) {
        const uint8_t *id = (const uint8_t *)ids->buf + i * ID_SIZE;
        size_t slot;
        fetch_ahead(map, ids->buf, i, n);
        uint32_t row = find(map, id, &slot);
        if (row != FREE)
            ((uint8_t *)marks->buf)[row] |= bits;
        else if (append_id(missing, id) < 0)
            Py_CLEAR(missing);
    }
    return missing;
}

static PyObject *map_mark(PlaceMap *map, PyObject *args)
{
    Py_buffer ids, marks;
    unsigned char bits;
    if (!PyArg_ParseTuple(args, "y*w*b:mark", &ids, &marks, &bits))
        return NULL;
    PyObject *result = mark_buffers(map, &ids, &marks, bits);
    PyBuffer_Release(&marks);
    PyBuffer_Release(&ids);
    return result;
}

PyDoc_STRVAR(mark_new_doc,
"mark_new(blob_ids, marks, bits, unless, /)\n--\n\n"
"As `mark`, but where any bit of `unless` is set a blob stays as it is. Gives back two lists: the numbers of the blobs\n"
"that were marked, and the IDs that are not known.");

static PyObject *mark_new_buffers(const PlaceMap *map, const Py_buffer *ids, const Py_buffer *marks, unsigned char bits,
                                  unsigned char unless)
{
    if (check_ids(ids) < 0 || check_marks(map, marks) < 0)
        return NULL;
    PyObject *lists = Py_BuildValue("([][])");
    if (lists == NULL)
        return NULL;
    PyObject *marked = PyTuple_GetItem(lists, 0), *missing = PyTuple_GetItem(lists, 1);
    size_t n = (size_t)ids->len / ID_SIZE;
    int failed = 0;
    for (size_t i = 0; !failed && i < n; i++) {
        const uint8_t *id = (const uint8_t *)ids->buf + i * ID_SIZE;
        size_t slot;
        fetch_ahead(map, ids->buf, i, n);
        uint32_t row = find(map, id, &slot);
        if (row == FREE) {
            failed = append_id(missing, id);
            continue;
        }
        uint8_t *mark = (uint8_t *)marks->buf + row;
        if ((*mark & unless) == 0) {
            *mark |= bits;
            failed = append_number(marked, row);
        }
    }
    if (failed)
        Py_CLEAR(lists);
    return lists;
}

static PyObject *map_mark_new(PlaceMap *map, PyObject *args)
{
    Py_buffer ids, marks;
    unsigned char bits, unless;
    if (!PyArg_ParseTuple(args, "y*w*bb:mark_new", &ids, &marks, &bits, &unless))
        return NULL;
    PyObject *result = mark_new_buffers(map, &ids, &marks, bits, unless);
    PyBuffer_Release(&marks);
    PyBuffer_Release(&ids);
    return result;
}

PyDoc_STRVAR(add_sizes_doc,
"add_sizes(marks, bits, sums, /)\n--\n\n"
"Add the size of each blob whose mark has any of these bits to the number of its frame in `sums`, 32-bit numbers of this\n"
"machine; an empty blob counts one. Raises ValueError when a place names a frame that is not there.");

static int add_marked(const PlaceMap *map, const Py_buffer *marks, unsigned char bits, const Py_buffer *sums)
{
    uint32_t *sum = sums->buf;
    size_t frames = (size_t)sums->len / sizeof *sum;
    size_t n = (size_t)marks->len < map->count ? (size_t)marks->len : map->count;
    for (size_t row = 0; row < n; row++) {
        if ((((const uint8_t *)marks->buf)[row] & bits) == 0)
            continue;
        const uint8_t *place = map->places + row * PLACE_SIZE;
        uint32_t frame = load_number(place), size = load_number(place + 8);
        if (frame >= frames) {
            PyErr_Format(PyExc_ValueError, "a blob is in frame %lu of %zu", (unsigned long)frame, frames);
            return -1;
        }
        sum[frame] += size ? size : 1;
    }
    return 0;
}

static PyObject *map_add_sizes(PlaceMap *map, PyObject *args)
{
    Py_buffer marks, sums;
    unsigned char bits;
    if (!PyArg_ParseTuple(args, "y*bw*:add_sizes", &marks, &bits, &sums))
        return NULL;
    int failed = add_marked(map, &marks, bits, &sums);
    PyBuffer_Release(&sums);
    PyBuffer_Release(&marks);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

/* --- the type --- */

static void map_dealloc(PlaceMap *map)
{
    PyTypeObject *type = Py_TYPE((PyObject *)map);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    PyMem_Free(map->ids);
    PyMem_Free(map->places);
    PyMem_Free(map->slots);
    release(map);
    Py_DECREF(type);
}

static PyObject *map_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    static char *names[] = {"capacity", NULL};
    Py_ssize_t capacity = 0;
    if (!PyArg_ParseTupleAndKeywords(args, named, "|n:PlaceMap", names, &capacity))
        return NULL;
    if (capacity < 0)
        return PyErr_Format(PyExc_ValueError, "capacity is negative: %zd", capacity);
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    PlaceMap *map = (PlaceMap *)allocate(type, 0);       /* all zeros */
    if (map == NULL)
        return NULL;
    if (grow_slots(map, LEAST_BITS) < 0 || make_room(map, (size_t)capacity) < 0) {
        Py_DECREF(map);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    return (PyObject *)map;
}

static PyMethodDef map_methods[] = {
    {"get", (PyCFunction)map_get, METH_O, get_doc},
    {"set", (PyCFunction)map_set, METH_VARARGS, set_doc},
    {"position", (PyCFunction)map_position, METH_O, position_doc},
    {"at", (PyCFunction)map_at, METH_O, at_doc},
    {"extend", (PyCFunction)map_extend, METH_VARARGS, extend_doc},
    {"add_frames", (PyCFunction)map_add_frames, METH_VARARGS, add_frames_doc},
    {"places", (PyCFunction)map_places, METH_VARARGS, places_doc},
    {"rows", (PyCFunction)map_rows, METH_VARARGS, rows_doc},
    {"mark", (PyCFunction)map_mark, METH_VARARGS, mark_doc},
    {"mark_new", (PyCFunction)map_mark_new, METH_VARARGS, mark_new_doc},
    {"add_sizes", (PyCFunction)map_add_sizes, METH_VARARGS, add_sizes_doc},
    {NULL, NULL, 0, NULL},
};

PyDoc_STRVAR(map_doc,
"PlaceMap(capacity=0)\n--\n\n"
"Blob IDs and places, with memory for `capacity` blobs to begin with.");

static PyType_Slot map_slots[] = {
    {Py_tp_doc, (void *)map_doc},
    {Py_tp_new, map_new},
    {Py_tp_dealloc, map_dealloc},
    {Py_tp_methods, map_methods},
    {Py_sq_contains, map_contains},
    {Py_sq_length, map_length},
    {0, NULL},
};

static PyType_Spec map_spec = {
    .name = "bfrepo.index._places.PlaceMap",
    .basicsize = sizeof(PlaceMap),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = map_slots,
};

static int places_exec(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &map_spec, NULL);
    if (type == NULL)
        return -1;
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed;
}

static PyModuleDef_Slot places_slots[] = {
    {Py_mod_exec, places_exec},
    {0, NULL},
};

static struct PyModuleDef places_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_places",
    .m_doc = "Where every blob is.",
    .m_size = 0,
    .m_slots = places_slots,
};

PyMODINIT_FUNC PyInit__places(void)
{
    return PyModuleDef_Init(&places_module);
}
