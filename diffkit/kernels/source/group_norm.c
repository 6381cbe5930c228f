/* Group normalization and SiLU in one pass over the maps, forwards and backwards.
 *
 *     z = (x - mean) * deviation^-1 * weight + bias,  y = z or z sigmoid(z)
 *
 * with mean and deviation of each image over a group's channels and all places (Wu & He 2018), and weight and bias of each
 * image and channel, so that an embedding may modulate them. The gradients are those of torch's native_group_norm, by the
 * chain rule; nothing but x, mean and 1/deviation is kept from the forward pass.
 *
 * Maps are dense [images, places, channels]; the channels are a multiple of LANES.
 */
#include "vectors.h"
#include <math.h>

enum { CHUNK = 32, MOST = 4096 }; /* places summed in one go, so that sums stay exact; channels of a block at most */

typedef struct {
    long images, places, channels, groups;
} Maps;

/* e^x for |x| <= 87, to 1e-7: 2^n times a polynomial of the rest (Cephes' coefficients). */
INLINE vec exponential(vec x) {
    x = clamp(x, -87, 87);
    vec shifted = x * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: rounds to whole numbers */
    vec whole = shifted - 12582912.0f;
    vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec p = fill(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1;
    ivec power = ((ivec)shifted << 23) + (127 << 23);
    return p * (vec)power;
}

INLINE vec sigmoid(vec x) { return 1 / (1 + exponential(-x)); }

/* Channels of a block: whole groups and whole vectors, of as many blocks as keep the threads busy. */
static long block_of(Maps s, int threads) {
    long group = s.channels / s.groups, block = group;
    while (block % LANES) block += group;
    long wanted = (2 * threads + s.images - 1) / s.images;
    while (block < s.channels && (s.channels % (2 * block) == 0) && s.channels / (2 * block) >= wanted && 2 * block <= MOST)
        block *= 2;
    return block;
}

/* Whether group_norm takes maps of these channels. */
int group_norm_takes(long channels, long groups) {
    Maps s = {1, 1, channels, groups};
    return channels % LANES == 0 && channels % groups == 0 && block_of(s, 1) <= MOST && channels % block_of(s, 1) == 0;
}

/* Replace each channel's number by the sum over its group. */
static void sum_groups(float *each, long channels, long group) {
    for (long first = 0; first < channels; first += group) {
        double sum = 0;
        for (long c = 0; c < group; c++) sum += each[first + c];
        for (long c = 0; c < group; c++) each[first + c] = sum;
    }
}

/* Mean over the places of (x - shift)^power of a block's channels; shift may be NULL. */
INLINE void moments(const float *x, const float *shift, int power, float *mean, Maps s, long block) {
    for (long c = 0; c < block; c += LANES) {
        vec total = fill(0), around = shift ? load(shift + c) : fill(0);
        for (long first = 0; first < s.places; first += CHUNK) {
            long last = first + CHUNK < s.places ? first + CHUNK : s.places;
            vec sum = fill(0);
            for (long p = first; p < last; p++) {
                vec centred = load(x + p * s.channels + c) - around;
                if (power == 2) centred *= centred;
                sum += centred;
            }
            total += sum;
        }
        store(mean + c, total / (float)s.places);
    }
}

void group_norm_forward(const float *x, const float *weight, const float *bias, float *y, float *mean, float *inverse,
                        Maps s, float eps, int silu, int threads) {
    long group = s.channels / s.groups, block = block_of(s, threads), blocks = s.channels / block;
    PARALLEL
    for (long item = 0; item < s.images * blocks; item++) {
        long n = item / blocks, at = item % blocks * block;
        const float *from = x + n * s.places * s.channels + at;
        float *to = y + n * s.places * s.channels + at;
        const float *shift = bias + n * s.channels + at;
        float centre[MOST], scale[MOST];
        moments(from, NULL, 1, centre, s, block);
        sum_groups(centre, block, group);
        for (long c = 0; c < block; c++) centre[c] /= group;
        moments(from, centre, 2, scale, s, block);
        sum_groups(scale, block, group);
        for (long c = 0; c < block; c++) {
            float over = 1 / sqrtf(scale[c] / group + eps);
            mean[n * s.groups + (at + c) / group] = centre[c];
            inverse[n * s.groups + (at + c) / group] = over;
            scale[c] = over * weight[n * s.channels + at + c];
        }
        for (long p = 0; p < s.places; p++)
            for (long c = 0; c < block; c += LANES) {
                vec z = (load(from + p * s.channels + c) - load(centre + c)) * load(scale + c) + load(shift + c);
                if (silu) z *= sigmoid(z);
                store(to + p * s.channels + c, z);
            }
    }
}

void group_norm_backward(const float *y_gradient, const float *x, const float *weight, const float *bias,
                         const float *mean, const float *inverse, float *x_gradient, float *weight_gradient,
                         float *bias_gradient, Maps s, int silu, int threads) {
    long group = s.channels / s.groups, block = block_of(s, threads), blocks = s.channels / block;
    PARALLEL
    for (long item = 0; item < s.images * blocks; item++) {
        long n = item / blocks, at = item % blocks * block, start = n * s.places * s.channels + at;
        float centre[MOST], over[MOST], scale[MOST], slope[MOST], offset[MOST];
        float *of_weight = weight_gradient + n * s.channels + at, *of_bias = bias_gradient + n * s.channels + at;
        for (long c = 0; c < block; c++) {
            centre[c] = mean[n * s.groups + (at + c) / group];
            over[c] = inverse[n * s.groups + (at + c) / group];
            scale[c] = over[c] * weight[n * s.channels + at + c];
        }
        for (long c = 0; c < block; c += LANES) {
            vec around = load(centre + c), times = load(scale + c), shift = load(bias + n * s.channels + at + c);
            vec product = fill(0), total = fill(0);
            for (long first = 0; first < s.places; first += CHUNK) {
                long last = first + CHUNK < s.places ? first + CHUNK : s.places;
                vec some_product = fill(0), some_total = fill(0);
                for (long p = first; p < last; p++) {
                    vec centred = load(x + start + p * s.channels + c) - around;
                    vec gradient = load(y_gradient + start + p * s.channels + c);
                    if (silu) {
                        vec z = centred * times + shift, s1 = sigmoid(z);
                        gradient *= s1 * (1 + z * (1 - s1));
                    }
                    store(x_gradient + start + p * s.channels + c, gradient);
                    some_product += gradient * centred;
                    some_total += gradient;
                }
                product += some_product;
                total += some_total;
            }
            store(of_weight + c, product * load(over + c));
            store(of_bias + c, total);
        }
        /* x's gradient is gradient * scale minus its part along the mean and along x - mean, over the group */
        for (long c = 0; c < block; c++) {
            slope[c] = scale[c] * of_weight[c];
            offset[c] = scale[c] * of_bias[c];
        }
        sum_groups(slope, block, group);
        sum_groups(offset, block, group);
        for (long c = 0; c < block; c++) {
            slope[c] *= over[c] / (s.places * group);
            offset[c] /= s.places * group;
        }
        for (long p = 0; p < s.places; p++)
            for (long c = 0; c < block; c += LANES) {
                float *to = x_gradient + start + p * s.channels + c;
                vec centred = load(x + start + p * s.channels + c) - load(centre + c);
                store(to, load(to) * load(scale + c) - centred * load(slope + c) - load(offset + c));
            }
    }
}
