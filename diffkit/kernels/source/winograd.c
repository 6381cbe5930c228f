/* 3x3 convolutions of stride 1 and padding 1 by Winograd's minimal filtering, F(4x4, 3x3).
 *
 * Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4: with tiles of 4x4 outputs, which see
 * 6x6 inputs d,
 *
 *     y = A^T [ (G g G^T) . (B^T d B) ] A
 *
 * so 36 products for each pair of channels take the place of 144. Over all tiles and channels, each of the 36 is a matrix
 * product. The transforms interpolate at 0, +-a, +-b and infinity with a^2 = 1/2, b^2 = 2, in place of the usual 1 and 2:
 * in single precision the error of a sum over 256 channels is then half as large.
 *
 * The gradients are the adjoints of the same steps: the transforms' transposes and the products with one factor
 * transposed.
 *
 * Images and their gradients are dense [images, height, width, channels], weights [outputs, inputs, 3, 3]; numbers of
 * channels are multiples of LANES. Transformed ("spectral") images are [36, tiles, channels], weights panels of
 * [36, columns / WIDTH, rows, WIDTH]. Some images at a time are in the workspace, so that it stays in the cache.
 */
#include "vectors.h"
#include <string.h>

enum { TILE = 4, PATCH = 6, POINTS = PATCH * PATCH };
static const float A = 0.70710678118654752f, B = 1.41421356237309505f; /* A^2 = 1/2, B^2 = 2 */

typedef struct {
    long images, height, width, inputs, outputs;
} Shape;

static long tiles_across(long side) { return (side + TILE - 1) / TILE; }
static long tiles_of(Shape s) { return tiles_across(s.height) * tiles_across(s.width); } /* of one image */
static long padded(long columns) { return (columns + WIDTH - 1) / WIDTH * WIDTH; }
static long least(long a, long b) { return a < b ? a : b; }

/* ---- One-dimensional transforms -------------------------------------------------------------------------------- */

INLINE void input_transform(const vec d[PATCH], vec v[PATCH]) { /* B^T d */
    vec even_a = d[4] - 2 * d[2], odd_a = A * (d[3] - 2 * d[1]);
    vec even_b = d[4] - 0.5f * d[2], odd_b = B * (d[3] - 0.5f * d[1]);
    v[0] = d[0] - 2.5f * d[2] + d[4];
    v[1] = even_a + odd_a;
    v[2] = even_a - odd_a;
    v[3] = even_b + odd_b;
    v[4] = even_b - odd_b;
    v[5] = d[1] - 2.5f * d[3] + d[5];
}

INLINE void input_adjoint(const vec v[PATCH], vec d[PATCH]) { /* B v */
    vec even_a = v[1] + v[2], odd_a = A * (v[1] - v[2]);
    vec even_b = v[3] + v[4], odd_b = B * (v[3] - v[4]);
    d[0] = v[0];
    d[1] = v[5] - 2 * odd_a - 0.5f * odd_b;
    d[2] = -2.5f * v[0] - 2 * even_a - 0.5f * even_b;
    d[3] = odd_a + odd_b - 2.5f * v[5];
    d[4] = v[0] + even_a + even_b;
    d[5] = v[5];
}

INLINE void output_transform(const vec m[PATCH], vec y[TILE]) { /* A^T m */
    vec even_a = m[1] + m[2], odd_a = A * (m[1] - m[2]);
    vec even_b = m[3] + m[4], odd_b = B * (m[3] - m[4]);
    y[0] = m[0] + even_a + even_b;
    y[1] = odd_a + odd_b;
    y[2] = 0.5f * even_a + 2 * even_b;
    y[3] = 0.5f * odd_a + 2 * odd_b + m[5];
}

INLINE void output_adjoint(const vec y[TILE], vec m[PATCH]) { /* A y */
    vec even_a = y[0] + 0.5f * y[2], odd_a = A * (y[1] + 0.5f * y[3]);
    vec even_b = y[0] + 2 * y[2], odd_b = B * (y[1] + 2 * y[3]);
    m[0] = y[0];
    m[1] = even_a + odd_a;
    m[2] = even_a - odd_a;
    m[3] = even_b + odd_b;
    m[4] = even_b - odd_b;
    m[5] = y[3];
}

INLINE void weight_transform(const vec g[3], vec u[PATCH]) { /* G g */
    vec even_a = (g[0] + 0.5f * g[2]) * (-2 / 3.0f), odd_a = (-2 / 3.0f * A) * g[1];
    vec even_b = (g[0] + 2 * g[2]) * (1 / 6.0f), odd_b = (1 / 6.0f * B) * g[1];
    u[0] = g[0];
    u[1] = even_a + odd_a;
    u[2] = even_a - odd_a;
    u[3] = even_b + odd_b;
    u[4] = even_b - odd_b;
    u[5] = g[2];
}

INLINE void weight_adjoint(const vec u[PATCH], vec g[3]) { /* G^T u */
    vec even_a = (u[1] + u[2]) * (-2 / 3.0f), odd_a = (u[1] - u[2]) * (-2 / 3.0f * A);
    vec even_b = (u[3] + u[4]) * (1 / 6.0f), odd_b = (u[3] - u[4]) * (1 / 6.0f * B);
    g[0] = u[0] + even_a + even_b;
    g[1] = odd_a + odd_b;
    g[2] = 0.5f * even_a + 2 * even_b + u[5];
}

/* ---- Images ------------------------------------------------------------------------------------------------------ */

/* B^T d B of all patches of x, [images, height, width, channels]. */
static void transform_input(const float *x, float *v, Shape s, long channels, int threads) {
    long down = tiles_across(s.height), across = tiles_across(s.width);
    size_t plane = (size_t)s.images * down * across * channels;
    PARALLEL
    for (long row = 0; row < s.images * down; row++) {
        const float *image = x + row / down * s.height * s.width * channels;
        long top = row % down * TILE - 1;
        for (long tile = 0; tile < across; tile++) {
            long left = tile * TILE - 1;
            float *to = v + (row * across + tile) * channels;
            for (long c = 0; c < channels; c += LANES) {
                vec half[PATCH][PATCH], column[PATCH], whole[PATCH];
                for (int j = 0; j < PATCH; j++) {
                    for (int i = 0; i < PATCH; i++) {
                        long p = top + i, q = left + j;
                        int inside = p >= 0 && p < s.height && q >= 0 && q < s.width;
                        column[i] = inside ? load(image + (p * s.width + q) * channels + c) : fill(0);
                    }
                    input_transform(column, whole);
                    for (int i = 0; i < PATCH; i++) half[i][j] = whole[i];
                }
                for (int i = 0; i < PATCH; i++) {
                    input_transform(half[i], whole);
                    for (int j = 0; j < PATCH; j++) store(to + (i * PATCH + j) * plane + c, whole[j]);
                }
            }
        }
    }
}

/* The adjoint of transform_input: patches overlap, and their sums are the gradient of x. */
static void add_patches(const float *v, float *x, Shape s, long channels, int threads) {
    long down = tiles_across(s.height), across = tiles_across(s.width), size = s.height * s.width * channels;
    size_t plane = (size_t)s.images * down * across * channels;
    PARALLEL
    for (long n = 0; n < s.images; n++) {
        float *image = x + n * size;
        memset(image, 0, size * sizeof(float));
        for (long tile = 0; tile < down * across; tile++) {
            long top = tile / across * TILE - 1, left = tile % across * TILE - 1;
            const float *from = v + (n * down * across + tile) * channels;
            for (long c = 0; c < channels; c += LANES) {
                vec half[PATCH][PATCH], column[PATCH], whole[PATCH];
                for (int j = 0; j < PATCH; j++) {
                    for (int i = 0; i < PATCH; i++) column[i] = load(from + (i * PATCH + j) * plane + c);
                    input_adjoint(column, whole);
                    for (int i = 0; i < PATCH; i++) half[i][j] = whole[i];
                }
                for (int i = 0; i < PATCH; i++) {
                    long p = top + i;
                    if (p < 0 || p >= s.height) continue;
                    input_adjoint(half[i], whole);
                    for (int j = 0; j < PATCH; j++) {
                        long q = left + j;
                        if (q < 0 || q >= s.width) continue;
                        float *to = image + (p * s.width + q) * channels + c;
                        store(to, load(to) + whole[j]);
                    }
                }
            }
        }
    }
}

/* A^T m A of all tiles, plus the bias where there is one. */
static void transform_output(const float *m, const float *bias, float *y, Shape s, int threads) {
    long down = tiles_across(s.height), across = tiles_across(s.width), channels = s.outputs;
    size_t plane = (size_t)s.images * down * across * channels;
    PARALLEL
    for (long row = 0; row < s.images * down; row++) {
        float *image = y + row / down * s.height * s.width * channels;
        long top = row % down * TILE;
        for (long tile = 0; tile < across; tile++) {
            long left = tile * TILE;
            const float *from = m + (row * across + tile) * channels;
            for (long c = 0; c < channels; c += LANES) {
                vec half[TILE][PATCH], column[PATCH], whole[TILE], shift = bias ? load(bias + c) : fill(0);
                for (int j = 0; j < PATCH; j++) {
                    for (int i = 0; i < PATCH; i++) column[i] = load(from + (i * PATCH + j) * plane + c);
                    output_transform(column, whole);
                    for (int i = 0; i < TILE; i++) half[i][j] = whole[i];
                }
                for (int i = 0; i < TILE && top + i < s.height; i++) {
                    output_transform(half[i], whole);
                    for (int j = 0; j < TILE && left + j < s.width; j++)
                        store(image + ((top + i) * s.width + left + j) * channels + c, whole[j] + shift);
                }
            }
        }
    }
}

/* The adjoint of transform_output, of the gradient of y. */
static void transform_gradient(const float *y, float *m, Shape s, int threads) {
    long down = tiles_across(s.height), across = tiles_across(s.width), channels = s.outputs;
    size_t plane = (size_t)s.images * down * across * channels;
    PARALLEL
    for (long row = 0; row < s.images * down; row++) {
        const float *image = y + row / down * s.height * s.width * channels;
        long top = row % down * TILE;
        for (long tile = 0; tile < across; tile++) {
            long left = tile * TILE;
            float *to = m + (row * across + tile) * channels;
            for (long c = 0; c < channels; c += LANES) {
                vec half[PATCH][TILE], column[TILE], whole[PATCH];
                for (int j = 0; j < TILE; j++) {
                    for (int i = 0; i < TILE; i++) {
                        int inside = top + i < s.height && left + j < s.width;
                        column[i] = inside ? load(image + ((top + i) * s.width + left + j) * channels + c) : fill(0);
                    }
                    output_adjoint(column, whole);
                    for (int i = 0; i < PATCH; i++) half[i][j] = whole[i];
                }
                for (int i = 0; i < PATCH; i++) {
                    output_adjoint(half[i], whole);
                    for (int j = 0; j < PATCH; j++) store(to + (i * PATCH + j) * plane + c, whole[j]);
                }
            }
        }
    }
}

/* ---- Weights ----------------------------------------------------------------------------------------------------- */

/* G g G^T as panels: of [inputs, outputs], or of [outputs, inputs] if by_input. */
static void transform_weight(const float *weight, float *u, Shape s, int by_input, int threads) {
    long rows = by_input ? s.outputs : s.inputs, columns = by_input ? s.inputs : s.outputs;
    long row_step = by_input ? s.inputs * 9 : 9, column_step = by_input ? 9 : s.inputs * 9;
    size_t plane = (size_t)padded(columns) * rows;
    PARALLEL
    for (long column = 0; column < columns; column += LANES)
        for (long row = 0; row < rows; row++) {
            const float *from = weight + row * row_step + column * column_step;
            float *to = u + (column / WIDTH * rows + row) * WIDTH + column % WIDTH;
            float taps[9][LANES];
            vec half[PATCH][3], column[3], whole[PATCH];
            for (int lane = 0; lane < LANES; lane++)
                for (int tap = 0; tap < 9; tap++) taps[tap][lane] = from[lane * column_step + tap];
            for (int j = 0; j < 3; j++) {
                for (int i = 0; i < 3; i++) column[i] = load(taps[i * 3 + j]);
                weight_transform(column, whole);
                for (int i = 0; i < PATCH; i++) half[i][j] = whole[i];
            }
            for (int i = 0; i < PATCH; i++) {
                weight_transform(half[i], whole);
                for (int j = 0; j < PATCH; j++) store(to + (i * PATCH + j) * plane, whole[j]);
            }
        }
}

/* The adjoint of transform_weight, from [36, outputs, inputs]. */
static void gather_weight(const float *u, float *weight, Shape s, int threads) {
    size_t plane = (size_t)s.outputs * s.inputs;
    PARALLEL
    for (long o = 0; o < s.outputs; o++)
        for (long c = 0; c < s.inputs; c += LANES) {
            const float *from = u + o * s.inputs + c;
            float *to = weight + (o * s.inputs + c) * 9;
            vec half[3][PATCH], column[PATCH], taps[3];
            for (int j = 0; j < PATCH; j++) {
                for (int i = 0; i < PATCH; i++) column[i] = load(from + (i * PATCH + j) * plane);
                weight_adjoint(column, taps);
                for (int i = 0; i < 3; i++) half[i][j] = taps[i];
            }
            for (int i = 0; i < 3; i++) {
                weight_adjoint(half[i], taps);
                for (int j = 0; j < 3; j++)
                    for (int lane = 0; lane < LANES; lane++) to[lane * 9 + i * 3 + j] = taps[j][lane];
            }
        }
}

/* ---- Matrix products --------------------------------------------------------------------------------------------- */

typedef struct {
    const float *at;
    size_t plane;           /* from one matrix to the next */
    long panel, row, depth; /* from one panel of columns to the next, of the right factor; along the two axes */
} Factor;

/* Set or add to `rows` rows of `vectors` vectors the sum over the depth. The constants make the sums registers. */
INLINE void block(int rows, int vectors, int adds, const float *a, Factor left, const float *b, Factor right, float *c,
                  long columns, long depth) {
    vec sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) sum[i][j] = adds ? load(c + i * columns + j * LANES) : fill(0);
    for (long k = 0; k < depth; k++) {
        vec factor[VECTORS];
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) factor[j] = load(b + k * right.depth + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            vec other = fill(a[i * left.row + k * left.depth]);
#pragma GCC unroll 8
            for (int j = 0; j < vectors; j++) sum[i][j] += other * factor[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) store(c + i * columns + j * LANES, sum[i][j]);
}

#define CASE(I, J) \
    case (I)*8 + (J): \
        block(I, J, adds, a, left, b, right, c, columns, depth); \
        break;
#define CASES(J) CASE(1, J) CASE(2, J) CASE(3, J) CASE(4, J) CASE(5, J) CASE(6, J)

static void any_block(int rows, int vectors, int adds, const float *a, Factor left, const float *b, Factor right,
                      float *c, long columns, long depth) {
    switch (rows * 8 + vectors) {
        CASES(1)
        CASES(2)
#if defined(__AVX512F__)
        CASES(3)
        CASES(4)
#endif
    }
}

/* Set or add to each c[rows, columns], of POINTS dense ones, the product of its two factors. */
static void multiply(Factor left, Factor right, float *c, long rows, long columns, long depth, int adds, int threads) {
    PARALLEL_2
    for (long point = 0; point < POINTS; point++)
        for (long first = 0; first < columns; first += WIDTH) {
            int vectors = least(WIDTH, columns - first) / LANES;
            const float *b = right.at + point * right.plane + first / WIDTH * right.panel;
            for (long row = 0; row < rows; row += ROWS) {
                const float *a = left.at + point * left.plane + row * left.row;
                float *to = c + (point * rows + row) * columns + first;
                any_block(least(ROWS, rows - row), vectors, adds, a, left, b, right, to, columns, depth);
            }
        }
}

static Factor spectral(const float *at, long tiles, long channels) {
    return (Factor){at, (size_t)tiles * channels, 0, channels, 1};
}
static Factor transposed(const float *at, long tiles, long channels) {
    return (Factor){at, (size_t)tiles * channels, 0, 1, channels};
}
static Factor columns_of(const float *at, long tiles, long channels) {
    return (Factor){at, (size_t)tiles * channels, WIDTH, 0, channels};
}
static Factor panels_of(const float *at, long rows, long columns) {
    return (Factor){at, (size_t)rows * padded(columns), rows * WIDTH, 0, WIDTH};
}

/* ---- What is called ---------------------------------------------------------------------------------------------- */

long lanes(void) { return LANES; }

/* Floats of workspace for `at_once` images of a shape, forwards or backwards. */
size_t winograd_workspace(Shape s, long at_once, int backwards) {
    size_t images = (size_t)at_once * tiles_of(s) * POINTS, pairs = (size_t)POINTS * s.inputs * s.outputs;
    if (!backwards) return images * (s.inputs + s.outputs) + POINTS * s.inputs * padded(s.outputs);
    return images * (s.inputs + s.outputs) + POINTS * s.outputs * padded(s.inputs) + pairs;
}

void winograd_forward(const float *x, const float *weight, const float *bias, float *y, float *workspace, Shape s,
                      long at_once, int threads) {
    float *u = workspace, *v = u + (size_t)POINTS * s.inputs * padded(s.outputs);
    size_t pixels = s.height * s.width;
    transform_weight(weight, u, s, 0, threads);
    for (long n = 0; n < s.images; n += at_once) {
        Shape some = s;
        some.images = least(at_once, s.images - n);
        long tiles = some.images * tiles_of(s);
        float *m = v + (size_t)POINTS * tiles * s.inputs;
        transform_input(x + n * pixels * s.inputs, v, some, s.inputs, threads);
        multiply(spectral(v, tiles, s.inputs), panels_of(u, s.inputs, s.outputs), m, tiles, s.outputs, s.inputs, 0,
                 threads);
        transform_output(m, bias, y + n * pixels * s.outputs, some, threads);
    }
}

/* Either of the gradients, of x and of the weight, may be NULL. */
void winograd_backward(const float *y_gradient, const float *x, const float *weight, float *x_gradient,
                       float *weight_gradient, float *workspace, Shape s, long at_once, int threads) {
    float *u = workspace, *u_gradient = u + (size_t)POINTS * s.outputs * padded(s.inputs);
    float *m = u_gradient + (size_t)POINTS * s.inputs * s.outputs;
    size_t pixels = s.height * s.width;
    if (x_gradient) transform_weight(weight, u, s, 1, threads);
    for (long n = 0; n < s.images; n += at_once) {
        Shape some = s;
        some.images = least(at_once, s.images - n);
        long tiles = some.images * tiles_of(s);
        float *v = m + (size_t)POINTS * tiles * s.outputs;
        transform_gradient(y_gradient + n * pixels * s.outputs, m, some, threads);
        if (weight_gradient) {
            transform_input(x + n * pixels * s.inputs, v, some, s.inputs, threads);
            multiply(transposed(m, tiles, s.outputs), columns_of(v, tiles, s.inputs), u_gradient, s.outputs, s.inputs,
                     tiles, n > 0, threads);
        }
        if (x_gradient) {
            multiply(spectral(m, tiles, s.outputs), panels_of(u, s.outputs, s.inputs), v, tiles, s.inputs, s.outputs, 0,
                     threads);
            add_patches(v, x_gradient + n * pixels * s.inputs, some, s.inputs, threads);
        }
    }
    if (weight_gradient) gather_weight(u_gradient, weight_gradient, s, threads);
}
