/* Vectors of floats, as wide as the processor's registers. */
#ifndef DIFFKIT_VECTORS_H
#define DIFFKIT_VECTORS_H

#include <stddef.h>

#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 4 };
#elif defined(__AVX2__)
enum { LANES = 8, VECTORS = 2 };
#else
enum { LANES = 4, VECTORS = 2 };
#endif
/* LANES is the number of floats of a vector. ROWS * VECTORS sums, VECTORS factors and one more fit the registers. */
enum { ROWS = 6, WIDTH = LANES * VECTORS };

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define PARALLEL _Pragma("omp parallel for num_threads(threads) schedule(static)")
#define PARALLEL_2 _Pragma("omp parallel for num_threads(threads) schedule(static) collapse(2)")

INLINE vec load(const float *from) { return *(const vec *)from; }
INLINE void store(float *to, vec value) { *(vec *)to = value; }
INLINE vec fill(float value) { return value - (vec){0}; }
INLINE vec choose(ivec condition, vec yes, vec no) { return (vec)((condition & (ivec)yes) | (~condition & (ivec)no)); }
INLINE vec clamp(vec x, float low, float high) {
    x = choose(x < fill(low), fill(low), x);
    return choose(x > fill(high), fill(high), x);
}

#endif
