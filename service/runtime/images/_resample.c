/* Antialiased resampling of an RGB image into planes: bit for bit the pixels of Pillow, several times faster.
 *
 * The algorithm is that of Pillow 13 (src/libImaging/Resample.c): two separable passes, each a weighted sum in fixed
 * point with 22 fractional bits, rounded to 8 bits. Two things differ. The loops are ordered for compilers to vectorise
 * them, and the result is uint8 (3, height, width), the layout of the network's input.
 *
 * The source is read without a copy: through the Arrow C data interface of Pillow images (https://arrow.apache.org/
 * docs/format/CDataInterface.html), or from any contiguous buffer. Both have 4 bytes per pixel, the last one unused.
 */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EVERY_CPU __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
#else
#define FOR_EVERY_CPU
#endif

#define PRECISION 22 /* fractional bits of a weight */
#define HALF (1 << (PRECISION - 1))
#define ROWS 4 /* source rows that the horizontal pass handles at once */

struct ArrowArray { /* copied from the specification */
    int64_t length, null_count, offset, n_buffers, n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

/* ---- filters: support, and value at a distance from the centre ---- */

static double bilinear(double x) {
    x = fabs(x);
    return x < 1 ? 1 - x : 0;
}

static double bicubic(double x) { /* a = -0.5 */
    x = fabs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    if (x < 2) return -0.5 * (((x - 5) * x + 8) * x - 4);
    return 0;
}

static double sinc(double x) {
    if (x == 0) return 1;
    x *= M_PI;
    return sin(x) / x;
}

static double lanczos(double x) { return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

static const struct filter {
    const char *name;
    double support;
    double (*at)(double);
} FILTERS[] = {{"bilinear", 1, bilinear}, {"bicubic", 2, bicubic}, {"lanczos", 3, lanczos}};

/* ---- one axis: the source pixels of each output pixel, and their weights ---- */

struct axis {
    int taps;        /* room for weights per output pixel */
    int *first;      /* the first source pixel of each output pixel */
    int *count;      /* how many source pixels each output pixel has */
    int32_t *weight; /* taps per output pixel, unused ones 0 */
};

static void free_axis(struct axis *axis) {
    free(axis->first);
    free(axis->count);
    free(axis->weight);
}

/* Returns 0 if out of memory. `from` and `to` are floats as in Pillow: doubles would round differently. */
static int make_axis(struct axis *axis, const struct filter *filter, int source, float from, float to, int size) {
    double scale = (double)(to - from) / size;
    double stretch = scale < 1 ? 1 : scale;
    double shrink = 1 / stretch, support = filter->support * stretch;
    axis->taps = (int)ceil(support) * 2 + 1;
    axis->first = malloc(size * sizeof(int));
    axis->count = malloc(size * sizeof(int));
    axis->weight = calloc((size_t)size * axis->taps, sizeof(int32_t));
    double *exact = malloc(axis->taps * sizeof(double));
    if (!axis->first || !axis->count || !axis->weight || !exact) {
        free(exact);
        return 0;
    }
    for (int i = 0; i < size; i++) {
        double centre = from + (i + 0.5) * scale;
        int first = (int)(centre - support + 0.5), last = (int)(centre + support + 0.5);
        if (first < 0) first = 0;
        if (last > source) last = source;
        double sum = 0;
        for (int j = 0; j < last - first; j++) sum += exact[j] = filter->at((j + first - centre + 0.5) * shrink);
        for (int j = 0; j < last - first; j++) {
            double share = (sum != 0 ? exact[j] / sum : exact[j]) * (1 << PRECISION);
            axis->weight[(size_t)i * axis->taps + j] = (int32_t)(share < 0 ? share - 0.5 : share + 0.5);
        }
        axis->first[i] = first;
        axis->count[i] = last - first;
    }
    free(exact);
    return 1;
}

/* Vector types of GNU C: one pixel of each of ROWS rows, 4 channels each. */
typedef uint32_t words __attribute__((vector_size(4 * ROWS)));
typedef uint8_t bytes __attribute__((vector_size(4 * ROWS)));
typedef int32_t sums __attribute__((vector_size(16 * ROWS)));

static inline uint8_t to_byte(int32_t sum) {
    sum >>= PRECISION;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* Resamples ROWS rows of 4-byte pixels to `size` pixels each. Reads the pixels from `left` to `right`; `wide` has room
 * for `right` of them from every row. */
FOR_EVERY_CPU
static void horizontal(const struct axis *axis, int size, const uint8_t *const rows[ROWS], int left, int right,
                       sums *wide, uint8_t *result[ROWS]) {
    for (int row = 0; row < ROWS; row++)
        for (int i = left; i < right; i++)
            for (int c = 0; c < 4; c++) ((int32_t *)&wide[i])[4 * row + c] = rows[row][4 * (size_t)i + c];
    for (int i = 0; i < size; i++) {
        const int32_t *weight = axis->weight + (size_t)i * axis->taps;
        const sums *from = wide + axis->first[i];
        sums sum = {0};
        for (int tap = 0; tap < axis->count[i]; tap++) sum += weight[tap] * from[tap];
        sum = (sum + HALF) >> PRECISION;
        sum &= sum >= 0; /* a vector comparison yields -1 for true, 0 for false */
        sum = (sum & (sum <= 255)) | (255 & (sum > 255));
        words pixels = (words)__builtin_convertvector(sum, bytes);
        for (int row = 0; row < ROWS; row++) memcpy(result[row] + 4 * (size_t)i, &pixels[row], 4);
    }
}

/* Resamples `count` rows of `length` bytes to one row. `sum` has room for `length` numbers. */
FOR_EVERY_CPU
static void vertical(const int32_t *weight, int count, size_t length, const uint8_t *rows, size_t stride,
                     int32_t *restrict sum, uint8_t *restrict result) {
    for (size_t i = 0; i < length; i++) sum[i] = HALF;
    for (int tap = 0; tap < count; tap++)
        for (size_t i = 0; i < length; i++) sum[i] += weight[tap] * rows[stride * tap + i];
    for (size_t i = 0; i < length; i++) result[i] = to_byte(sum[i]);
}

FOR_EVERY_CPU
static void to_planes(const uint8_t *restrict pixels, size_t count, uint8_t *restrict planes) {
    for (int c = 0; c < 3; c++)
        for (size_t i = 0; i < count; i++) planes[c * count + i] = pixels[4 * i + c];
}

/* Resamples all rows of an image horizontally. Reads no pixel before the first needed. Returns 0 if out of memory. */
static int horizontal_pass(const struct axis *x, int size, const uint8_t *pixels, int height, size_t stride,
                           uint8_t *result) {
    int left = x->first[0], width = x->first[size - 1] + x->count[size - 1];
    sums *wide = aligned_alloc(sizeof *wide, sizeof *wide * (size_t)width);
    if (!wide) return 0;
    for (int first = 0; first < height; first += ROWS) {
        const uint8_t *rows[ROWS];
        uint8_t *results[ROWS];
        for (int i = 0; i < ROWS; i++) {
            int row = first + i < height ? first + i : height - 1; /* repeat the last row to fill up ROWS */
            rows[i] = pixels + stride * row;
            results[i] = result + 4 * (size_t)size * row;
        }
        horizontal(x, size, rows, left, width, wide, results);
    }
    free(wide);
    return 1;
}

/* Resamples an image vertically to `size` rows. `pixels` starts at source row `top`. Returns 0 if out of memory. */
static int vertical_pass(const struct axis *y, int size, const uint8_t *pixels, int top, size_t stride, size_t length,
                         uint8_t *result) {
    int32_t *sum = malloc(length * sizeof *sum);
    if (!sum) return 0;
    for (int row = 0; row < size; row++)
        vertical(y->weight + (size_t)row * y->taps, y->count[row], length, pixels + stride * (y->first[row] - top),
                 stride, sum, result + length * row);
    free(sum);
    return 1;
}

/* Returns 0 if out of memory. */
static int resample_pixels(const uint8_t *pixels, int width, int height, const struct filter *filter,
                           const float box[4], int out_width, int out_height, uint8_t *out) {
    struct axis x = {0}, y = {0};
    size_t stride = 4 * (size_t)width, out_stride = 4 * (size_t)out_width;
    uint8_t *between = NULL, *result = malloc(out_stride * out_height);
    int done = 0;
    if (!result || !make_axis(&x, filter, width, box[0], box[2], out_width)) goto end;
    if (!make_axis(&y, filter, height, box[1], box[3], out_height)) goto end;
    /* Pillow's choice of the first pass, by the size of the whole image, not of the box. It affects the result, because
     * values are rounded between the passes. */
    if (height > out_height && height - out_height > 2 * (width - out_width)) {
        between = malloc(stride * out_height);
        done = between && vertical_pass(&y, out_height, pixels, 0, stride, stride, between) &&
               horizontal_pass(&x, out_width, between, out_height, stride, result);
    } else {
        int top = y.first[0], used = y.first[out_height - 1] + y.count[out_height - 1] - top;
        between = malloc(out_stride * used);
        done = between && horizontal_pass(&x, out_width, pixels + stride * top, used, stride, between) &&
               vertical_pass(&y, out_height, between, top, out_stride, out_stride, result);
    }
    if (done) to_planes(result, (size_t)out_width * out_height, out);
end:
    free_axis(&x);
    free_axis(&y);
    free(between);
    free(result);
    return done;
}

/* Sets a Python exception and returns NULL if there is none. */
static const struct filter *filter_named(const char *name) {
    for (size_t i = 0; i < sizeof FILTERS / sizeof *FILTERS; i++)
        if (strcmp(FILTERS[i].name, name) == 0) return &FILTERS[i];
    PyErr_Format(PyExc_ValueError, "unknown interpolation %s", name);
    return NULL;
}

PyDoc_STRVAR(resample_doc,
             "resample(pixels, width, height, interpolation, box, out, out_width, out_height)\n--\n\n"
             "Resamples the box (left, top, right, bottom) of an image into `out`, uint8 (3, height, width).\n\n"
             "pixels: a buffer, or the `arrow_array` capsule of a Pillow image (RGB, RGBX); 4 bytes per pixel.\n"
             "Raises ValueError for an unknown interpolation, a box outside the image, or a buffer of the wrong size.");

static PyObject *resample(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *source, *target;
    const char *name;
    int width, height, out_width, out_height;
    float box[4];
    if (!PyArg_ParseTuple(args, "Oiis(ffff)Oii", &source, &width, &height, &name, &box[0], &box[1], &box[2], &box[3],
                          &target, &out_width, &out_height))
        return NULL;
    const struct filter *filter = filter_named(name);
    if (!filter) return NULL;
    if (width < 1 || height < 1 || out_width < 1 || out_height < 1 || !(0 <= box[0] && box[0] < box[2]) ||
        !(0 <= box[1] && box[1] < box[3]) || !(box[2] <= width && box[3] <= height)) {
        PyErr_SetString(PyExc_ValueError, "the box does not lie in the image, or a size is not positive");
        return NULL;
    }

    Py_buffer in = {0}, out;
    const uint8_t *pixels;
    int64_t length;
    if (PyCapsule_CheckExact(source)) {
        struct ArrowArray *array = PyCapsule_GetPointer(source, "arrow_array");
        if (!array) return NULL;
        if (array->n_children != 1 || array->children[0]->n_buffers != 2 || array->offset || array->children[0]->offset) {
            PyErr_SetString(PyExc_ValueError, "the image does not have 4 bytes per pixel");
            return NULL;
        }
        pixels = array->children[0]->buffers[1];
        length = array->children[0]->length;
    } else {
        if (PyObject_GetBuffer(source, &in, PyBUF_C_CONTIGUOUS)) return NULL;
        pixels = in.buf;
        length = in.len;
    }
    if (PyObject_GetBuffer(target, &out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE)) {
        if (in.obj) PyBuffer_Release(&in);
        return NULL;
    }
    int done = 0;
    if (length != 4 * (int64_t)width * height || out.len != 3 * (int64_t)out_width * out_height)
        PyErr_SetString(PyExc_ValueError, "a buffer does not have the size given");
    else {
        Py_BEGIN_ALLOW_THREADS;
        done = resample_pixels(pixels, width, height, filter, box, out_width, out_height, out.buf);
        Py_END_ALLOW_THREADS;
        if (!done) PyErr_NoMemory();
    }
    PyBuffer_Release(&out);
    if (in.obj) PyBuffer_Release(&in);
    if (!done) return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(axis_doc,
             "axis(interpolation, source, start, end, size)\n--\n\n"
             "The weights with which `resample` makes `size` pixels from those between `start` and `end` along one axis\n"
             "of `source` pixels: bytes of int32. First how many weights a pixel has room for, then for each pixel the\n"
             "first source pixel and their number, then the weights, with 22 fractional bits.\n\n"
             "Raises ValueError for an unknown interpolation or a range outside the source.");

static PyObject *axis(PyObject *module, PyObject *args) {
    (void)module;
    const char *name;
    int source, size;
    float start, end;
    if (!PyArg_ParseTuple(args, "siffi", &name, &source, &start, &end, &size)) return NULL;
    const struct filter *filter = filter_named(name);
    if (!filter) return NULL;
    if (source < 1 || size < 1 || !(0 <= start && start < end && end <= source)) {
        PyErr_SetString(PyExc_ValueError, "the range does not lie in the source, or a size is not positive");
        return NULL;
    }
    struct axis found = {0};
    PyObject *bytes = NULL;
    if (make_axis(&found, filter, source, start, end, size)) {
        size_t weights = (size_t)size * found.taps;
        bytes = PyBytes_FromStringAndSize(NULL, (1 + 2 * size + weights) * sizeof(int32_t));
        if (bytes) {
            int32_t *to = (int32_t *)PyBytes_AsString(bytes);
            *to++ = found.taps;
            for (int i = 0; i < size; i++) {
                *to++ = found.first[i];
                *to++ = found.count[i];
            }
            memcpy(to, found.weight, weights * sizeof(int32_t));
        }
    } else
        PyErr_NoMemory();
    free_axis(&found);
    return bytes;
}

static PyMethodDef METHODS[] = {{"resample", resample, METH_VARARGS, resample_doc},
                                {"axis", axis, METH_VARARGS, axis_doc},
                                {NULL, NULL, 0, NULL}};
static struct PyModuleDef MODULE = {.m_base = PyModuleDef_HEAD_INIT, .m_name = "_resample", .m_methods = METHODS};

PyMODINIT_FUNC PyInit__resample(void) { return PyModuleDef_Init(&MODULE); }
