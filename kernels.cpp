// Matrix products and the small steps of a block, for a CPU and few rows: what writing text consists of.
//
// kernels.py compiles this file at first use and calls the functions of the last section; quantized.py says how weights
// are rounded. A product reads each weight once, multiplies it with all rows, and is as fast as memory delivers weights.
//
// How an int8 matrix is multiplied. x is cut into groups of 32 numbers; each becomes integers from -127 to 127 and one
// scale. Integers are multiplied and added exactly, floats only once a group:
//
//     y[o] = weight_scale[o] * sum over groups g of  x_scale[g] * (sum over i in g of  weight[o][i] * x[i])
//
// int4 weights are q * scale + minimum with q from 0 to 15, and scale and minimum of a group of their row:
//
//     y[o] = sum over g of  scale[o][g] * x_scale[g] * (sum of q[o][i] * x[i])  +  minimum[o][g] * x_scale[g] * sum of x[i]
//
// Layout ("packed"). Eight rows of a matrix, an octet, are computed together, one in each lane of a 256-bit register.
// Of each row four weights stand side by side, for these are what one instruction multiplies and adds:
//
//     int8    byte  r * 4 + j  of step s          weight  4 s + j  of row r
//     int4    byte  r * 4 + j  of step s          low half: weight  8 s + j  of row r, high half: weight  8 s + 4 + j
//
// Each row of x is computed as if it were alone, so a text does not depend on those beside it.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

constexpr int64_t OCTET = 8;     // rows of a matrix that are computed together
constexpr int64_t GROUP = 32;    // numbers of x that share a scale
constexpr int64_t TILE = 4;      // rows of x that are computed together
constexpr int64_t WORTH_THREADS = 1 << 15;  // multiplications; fewer are done before another thread wakes

enum Kind { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT4 = 3 };

struct Matrix {
    int64_t kind;
    int64_t rows;             // out
    int64_t columns;          // in
    int64_t group;            // int4: weights that share scale and minimum
    const void *weights;      // packed, or row after row
    const void *scales;       // int8: float (rows); int4: half (octets, groups, 8)
    const void *minimums;     // int4: half (octets, groups, 8)
};

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// --- x as integers ---

struct Integers {
    int64_t padded = 0;          // columns, a multiple of GROUP
    std::vector<int8_t> values;  // (rows, padded)
    std::vector<float> scales;   // (rows, groups)
    std::vector<float> sums;     // (rows, groups): scale * sum of the integers

    void round_row(const float *x, int64_t row, int64_t columns) {
        int64_t groups = padded / GROUP;
        for (int64_t g = 0; g < groups; g++) {
            alignas(32) float part[GROUP] = {};
            int64_t count = std::min(GROUP, columns - g * GROUP);
            std::memcpy(part, x + g * GROUP, count * sizeof(float));

            float largest = 0;
            float nan = 0;  // stays 0, or becomes NaN for NaN and infinity
            for (int64_t i = 0; i < GROUP; i++) {
                largest = std::max(largest, std::fabs(part[i]));
                nan += part[i] * 0.0f;
            }

            float inverse = largest > 0 ? 127.0f / largest : 0.0f;
            int8_t *out = values.data() + row * padded + g * GROUP;
            int32_t sum = 0;
            for (int64_t i = 0; i < GROUP; i++) {
                int32_t value = static_cast<int32_t>(std::nearbyint(part[i] * inverse));
                out[i] = static_cast<int8_t>(value);
                sum += value;
            }
            float scale = largest / 127.0f + nan;
            scales[row * groups + g] = scale;
            sums[row * groups + g] = scale * static_cast<float>(sum);
        }
    }

    void round_all(const float *x, int64_t rows, int64_t columns, int64_t threads) {
        padded = round_up(columns, GROUP);
        values.resize(rows * padded);
        scales.resize(rows * padded / GROUP);
        sums.resize(rows * padded / GROUP);
#pragma omp parallel for num_threads(threads) if (rows * columns > WORTH_THREADS)
        for (int64_t row = 0; row < rows; row++) round_row(x + row * columns, row, columns);
    }
};

// --- one octet of an integer matrix times M rows of x ---

float half_to_float(uint16_t bits) {
    _Float16 half;
    std::memcpy(&half, &bits, sizeof half);
    return static_cast<float>(half);
}

#ifdef __AVX2__

inline __m256i four_numbers(const int8_t *x) {  // the same four in each lane
    int32_t bytes;
    std::memcpy(&bytes, x, sizeof bytes);
    return _mm256_set1_epi32(bytes);
}

inline __m256 eight_halves(const uint16_t *halves) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(halves)));
}

template <int M>
void octet_int8(const Matrix &w, int64_t octet, const Integers &x, int64_t row, float (*y)[OCTET]) {
    const int64_t padded = x.padded;
    const int64_t groups = padded / GROUP;
    const int8_t *weights = static_cast<const int8_t *>(w.weights) + octet * OCTET * padded;
    const int8_t *values = x.values.data() + row * padded;
    const float *scales = x.scales.data() + row * groups;
    const __m256i ones = _mm256_set1_epi16(1);

    __m256 sum[M];
    for (int m = 0; m < M; m++) sum[m] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        __m256i dot[M];
        for (int m = 0; m < M; m++) dot[m] = _mm256_setzero_si256();
        for (int64_t step = 0; step < GROUP / 4; step++) {
            const __m256i weight = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(weights));
            weights += 32;
            // The instruction wants one side without sign: |w| * (x with the sign of w), at most 2 * 127 * 127.
            const __m256i size = _mm256_abs_epi8(weight);
            for (int m = 0; m < M; m++) {
                const __m256i number = four_numbers(values + m * padded + g * GROUP + step * 4);
                const __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(number, weight));
                dot[m] = _mm256_add_epi32(dot[m], _mm256_madd_epi16(pairs, ones));
            }
        }
        for (int m = 0; m < M; m++) {
            const __m256 scale = _mm256_set1_ps(scales[m * groups + g]);
            sum[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[m]), scale, sum[m]);
        }
    }

    const __m256 weight_scale = _mm256_loadu_ps(static_cast<const float *>(w.scales) + octet * OCTET);
    for (int m = 0; m < M; m++) _mm256_storeu_ps(y[m], _mm256_mul_ps(sum[m], weight_scale));
}

template <int M>
void octet_int4(const Matrix &w, int64_t octet, const Integers &x, int64_t row, float (*y)[OCTET]) {
    const int64_t padded = x.padded;
    const int64_t groups = padded / GROUP;
    const int64_t weight_groups = w.columns / w.group;
    const uint8_t *weights = static_cast<const uint8_t *>(w.weights) + octet * OCTET * padded / 2;
    const uint16_t *weight_scales = static_cast<const uint16_t *>(w.scales) + octet * OCTET * weight_groups;
    const uint16_t *minimums = static_cast<const uint16_t *>(w.minimums) + octet * OCTET * weight_groups;
    const int8_t *values = x.values.data() + row * padded;
    const float *scales = x.scales.data() + row * groups;
    const float *sums = x.sums.data() + row * groups;
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i low_half = _mm256_set1_epi8(15);

    __m256 sum[M];
    for (int m = 0; m < M; m++) sum[m] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        // Eight times 2 * 15 * 127 fit into 16 bits.
        __m256i pairs[M];
        for (int m = 0; m < M; m++) pairs[m] = _mm256_setzero_si256();
        for (int64_t step = 0; step < GROUP / 8; step++) {
            const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(weights));
            weights += 32;
            const __m256i low = _mm256_and_si256(both, low_half);
            const __m256i high = _mm256_and_si256(_mm256_srli_epi16(both, 4), low_half);
            for (int m = 0; m < M; m++) {
                const int8_t *numbers = values + m * padded + g * GROUP + step * 8;
                pairs[m] = _mm256_add_epi16(pairs[m], _mm256_maddubs_epi16(low, four_numbers(numbers)));
                pairs[m] = _mm256_add_epi16(pairs[m], _mm256_maddubs_epi16(high, four_numbers(numbers + 4)));
            }
        }

        const int64_t weight_group = std::min(g * GROUP / w.group, weight_groups - 1);
        const __m256 weight_scale = eight_halves(weight_scales + weight_group * OCTET);
        const __m256 minimum = eight_halves(minimums + weight_group * OCTET);
        for (int m = 0; m < M; m++) {
            const __m256 dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs[m], ones));
            const __m256 scale = _mm256_mul_ps(weight_scale, _mm256_set1_ps(scales[m * groups + g]));
            sum[m] = _mm256_fmadd_ps(dot, scale, sum[m]);
            sum[m] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(sums[m * groups + g]), sum[m]);
        }
    }
    for (int m = 0; m < M; m++) _mm256_storeu_ps(y[m], sum[m]);
}

#else  // the same numbers on other processors

template <int M>
void octet_int8(const Matrix &w, int64_t octet, const Integers &x, int64_t row, float (*y)[OCTET]) {
    const int64_t groups = x.padded / GROUP;
    const int8_t *weights = static_cast<const int8_t *>(w.weights) + octet * OCTET * x.padded;
    const float *weight_scales = static_cast<const float *>(w.scales) + octet * OCTET;
    for (int m = 0; m < M; m++) {
        const int8_t *values = x.values.data() + (row + m) * x.padded;
        float sum[OCTET] = {};
        for (int64_t g = 0; g < groups; g++) {
            int32_t dot[OCTET] = {};
            for (int64_t i = g * GROUP; i < (g + 1) * GROUP; i += 4)
                for (int64_t r = 0; r < OCTET; r++)
                    for (int64_t j = 0; j < 4; j++) dot[r] += weights[i * OCTET + r * 4 + j] * values[i + j];
            for (int64_t r = 0; r < OCTET; r++) sum[r] += dot[r] * x.scales[(row + m) * groups + g];
        }
        for (int64_t r = 0; r < OCTET; r++) y[m][r] = sum[r] * weight_scales[r];
    }
}

template <int M>
void octet_int4(const Matrix &w, int64_t octet, const Integers &x, int64_t row, float (*y)[OCTET]) {
    const int64_t groups = x.padded / GROUP;
    const int64_t weight_groups = w.columns / w.group;
    const uint8_t *weights = static_cast<const uint8_t *>(w.weights) + octet * OCTET * x.padded / 2;
    const uint16_t *weight_scales = static_cast<const uint16_t *>(w.scales) + octet * OCTET * weight_groups;
    const uint16_t *minimums = static_cast<const uint16_t *>(w.minimums) + octet * OCTET * weight_groups;
    for (int m = 0; m < M; m++) {
        const int8_t *values = x.values.data() + (row + m) * x.padded;
        float sum[OCTET] = {};
        for (int64_t g = 0; g < groups; g++) {
            int32_t dot[OCTET] = {};
            for (int64_t i = g * GROUP; i < (g + 1) * GROUP; i += 8)
                for (int64_t r = 0; r < OCTET; r++)
                    for (int64_t j = 0; j < 4; j++) {
                        const uint8_t both = weights[i * OCTET / 2 + r * 4 + j];
                        dot[r] += (both & 15) * values[i + j] + (both >> 4) * values[i + 4 + j];
                    }
            const int64_t weight_group = std::min(g * GROUP / w.group, weight_groups - 1);
            for (int64_t r = 0; r < OCTET; r++) {
                const float scale = half_to_float(weight_scales[weight_group * OCTET + r]);
                sum[r] += dot[r] * (scale * x.scales[(row + m) * groups + g]);
                sum[r] += half_to_float(minimums[weight_group * OCTET + r]) * x.sums[(row + m) * groups + g];
            }
        }
        std::copy(sum, sum + OCTET, y[m]);
    }
}

#endif

// --- one octet of a float matrix times M rows of x ---

float float_of(float weight) { return weight; }
float float_of(uint16_t bfloat16) {
    const uint32_t bits = static_cast<uint32_t>(bfloat16) << 16;
    float number;
    std::memcpy(&number, &bits, sizeof number);
    return number;
}

#ifdef __AVX2__
inline __m256 eight(const float *weights) { return _mm256_loadu_ps(weights); }
inline __m256 eight(const uint16_t *bfloat16) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i *>(bfloat16));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
inline float sum_of(__m256 lanes) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}
#endif

// R rows of the matrix, from `first` on, times M rows of x.
template <int M, int R, typename Weight>
void rows_float(const Matrix &w, int64_t first, const float *x, float (*y)[OCTET]) {
    const int64_t columns = w.columns;
    const Weight *weights = static_cast<const Weight *>(w.weights) + first * columns;
    int64_t i = 0;
#ifdef __AVX2__
    __m256 sum[M][R];
    for (int m = 0; m < M; m++)
        for (int r = 0; r < R; r++) sum[m][r] = _mm256_setzero_ps();
    for (; i + 8 <= columns; i += 8) {
        __m256 weight[R];
        for (int r = 0; r < R; r++) weight[r] = eight(weights + r * columns + i);
        for (int m = 0; m < M; m++) {
            const __m256 number = _mm256_loadu_ps(x + m * columns + i);
            for (int r = 0; r < R; r++) sum[m][r] = _mm256_fmadd_ps(weight[r], number, sum[m][r]);
        }
    }
    for (int m = 0; m < M; m++)
        for (int r = 0; r < R; r++) y[m][r] = sum_of(sum[m][r]);
#else
    for (int m = 0; m < M; m++)
        for (int r = 0; r < R; r++) y[m][r] = 0;
#endif
    for (; i < columns; i++)
        for (int m = 0; m < M; m++)
            for (int r = 0; r < R; r++) y[m][r] += float_of(weights[r * columns + i]) * x[m * columns + i];
}

// --- a whole product ---

template <int M>
void octet_times_rows(const Matrix &w, int64_t octet, const Integers &integers, const float *x, int64_t row, float *y) {
    const int64_t first = octet * OCTET;
    const int64_t count = std::min(OCTET, w.rows - first);
    float out[M][OCTET];

    if (w.kind == INT8) octet_int8<M>(w, octet, integers, row, out);
    if (w.kind == INT4) octet_int4<M>(w, octet, integers, row, out);
    if (w.kind == FLOAT32 || w.kind == BFLOAT16) {
        const float *rows = x + row * w.columns;
        int64_t r = 0;
        float part[M][OCTET];
        while (r < count) {
            const bool two = r + 2 <= count;
            if (w.kind == FLOAT32 && two) rows_float<M, 2, float>(w, first + r, rows, part);
            if (w.kind == FLOAT32 && !two) rows_float<M, 1, float>(w, first + r, rows, part);
            if (w.kind == BFLOAT16 && two) rows_float<M, 2, uint16_t>(w, first + r, rows, part);
            if (w.kind == BFLOAT16 && !two) rows_float<M, 1, uint16_t>(w, first + r, rows, part);
            for (int m = 0; m < M; m++) std::copy(part[m], part[m] + (two ? 2 : 1), out[m] + r);
            r += two ? 2 : 1;
        }
    }
    for (int m = 0; m < M; m++) std::copy(out[m], out[m] + count, y + (row + m) * w.rows + first);
}

// y (rows, w.rows) = x (rows, w.columns) times w
void product(const Matrix &w, const float *x, int64_t rows, float *y, int64_t threads) {
    static thread_local Integers integers;
    if (w.kind == INT8 || w.kind == INT4) integers.round_all(x, rows, w.columns, threads);
    const Integers &rounded = integers;

    const int64_t octets = (w.rows + OCTET - 1) / OCTET;
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * w.rows * w.columns > WORTH_THREADS)
    for (int64_t octet = 0; octet < octets; octet++) {
        int64_t row = 0;
        for (; row + TILE <= rows; row += TILE) octet_times_rows<TILE>(w, octet, rounded, x, row, y);
        for (; row < rows; row++) octet_times_rows<1>(w, octet, rounded, x, row, y);
    }
}

// --- the small steps of a block ---

float dot(const float *a, const float *b, int64_t n) {
    float sum = 0;
    int64_t i = 0;
#ifdef __AVX2__
    __m256 lanes = _mm256_setzero_ps();
    for (; i + 8 <= n; i += 8) lanes = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), lanes);
    sum = sum_of(lanes);
#endif
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

void norm(const float *x, const float *gain, float eps, int64_t width, float *y) {
    const float scale = 1.0f / std::sqrt(dot(x, x, width) / width + eps);
    for (int64_t i = 0; i < width; i++) y[i] = x[i] * scale * gain[i];
}

void norm_rows(const float *x, const float *gain, float eps, int64_t rows, int64_t width, float *y, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > WORTH_THREADS)
    for (int64_t row = 0; row < rows; row++) norm(x + row * width, gain, eps, width, y + row * width);
}

// Pairs of features turn, i with i + D / 2; sin has a minus in its first half (model.apply_rope).
void rotate(const float *x, const float *cos, const float *sin, int64_t D, float *y) {
    const int64_t half = D / 2;
    for (int64_t i = 0; i < half; i++) {
        y[i] = x[i] * cos[i] + x[i + half] * sin[i];
        y[i + half] = x[i + half] * cos[i + half] + x[i] * sin[i + half];
    }
}

}  // namespace

// --- what kernels.py calls ---

extern "C" {

struct Block {
    Matrix qkv;      // the three stacked
    Matrix o;
    Matrix gate_up;  // the two stacked
    Matrix down;
    const float *input_norm;
    const float *output_norm;
    const float *qkv_bias;  // or null
    const float *q_norm;    // or null
    const float *k_norm;    // or null
    int64_t H, Hkv, D;
    float eps;
};

void multiply(const Matrix *w, const float *x, int64_t rows, float *y, int64_t threads) {
    product(*w, x, rows, y, threads);
}

// x (B, T, C) -> q (B, H, T, D), k and v (B, Hkv, T, D), normalised and turned. cos, sin: (T, D), or (B, T, D) if
// each_row.
void block_input(const Block *block, const float *x, int64_t B, int64_t T, const float *cos, const float *sin,
                 int64_t each_row, float *q, float *k, float *v, int64_t threads) {
    const int64_t rows = B * T;
    const int64_t C = block->qkv.columns;
    const int64_t D = block->D;
    const int64_t heads = block->H + 2 * block->Hkv;
    static thread_local std::vector<float> normal, projected;
    normal.resize(rows * C);
    projected.resize(rows * heads * D);

    norm_rows(x, block->input_norm, block->eps, rows, C, normal.data(), threads);
    product(block->qkv, normal.data(), rows, projected.data(), threads);

    float *const all = projected.data();
#pragma omp parallel for num_threads(threads) if (rows * heads * D > WORTH_THREADS)
    for (int64_t row = 0; row < rows; row++) {
        const int64_t b = row / T;
        const int64_t t = row % T;
        const int64_t place = each_row ? row : t;
        for (int64_t head = 0; head < heads; head++) {
            float *from = all + (row * heads + head) * D;
            if (block->qkv_bias)
                for (int64_t i = 0; i < D; i++) from[i] += block->qkv_bias[head * D + i];

            if (head >= block->H + block->Hkv) {
                const int64_t own = head - block->H - block->Hkv;
                std::copy(from, from + D, v + ((b * block->Hkv + own) * T + t) * D);
                continue;
            }
            const bool is_query = head < block->H;
            const int64_t own = is_query ? head : head - block->H;
            float *to = is_query ? q + ((b * block->H + own) * T + t) * D : k + ((b * block->Hkv + own) * T + t) * D;
            const float *gain = is_query ? block->q_norm : block->k_norm;
            if (gain) norm(from, gain, block->eps, D, from);
            rotate(from, cos + place * D, sin + place * D, D, to);
        }
    }
}

// One new token a row: keep k and v, (B, Hkv, D), in slot `begin` of the cache, and let q, (B, H, D), see the slots
// before it and itself. keys, values: (B, Hkv, slots, D). mask: (B, begin + 1), what each row sees, or null: all.
// Returns y (B, H, D).
void attend(const float *q, const float *k, const float *v, float *keys, float *values, const uint8_t *mask, int64_t B,
            int64_t H, int64_t Hkv, int64_t D, int64_t slots, int64_t begin, float *y, int64_t threads) {
    const int64_t used = begin + 1;
    for (int64_t pair = 0; pair < B * Hkv; pair++) {
        std::copy(k + pair * D, k + (pair + 1) * D, keys + (pair * slots + begin) * D);
        std::copy(v + pair * D, v + (pair + 1) * D, values + (pair * slots + begin) * D);
    }

    const float scale = 1.0f / std::sqrt(static_cast<float>(D));
#pragma omp parallel for num_threads(threads) if (B * H * used * D > 2 * WORTH_THREADS)
    for (int64_t head = 0; head < B * H; head++) {
        const int64_t b = head / H;
        const int64_t pair = b * Hkv + (head % H) / (H / Hkv);
        const float *query = q + head * D;
        const float *own_keys = keys + pair * slots * D;
        const float *own_values = values + pair * slots * D;
        const uint8_t *seen = mask ? mask + b * used : nullptr;
        static thread_local std::vector<float> weights;
        weights.resize(used);

        float largest = -INFINITY;
        for (int64_t s = 0; s < used; s++) {
            if (seen && !seen[s]) {
                weights[s] = -INFINITY;
                continue;
            }
            weights[s] = dot(query, own_keys + s * D, D) * scale;
            largest = std::max(largest, weights[s]);
        }

        float total = 0;
        for (int64_t s = 0; s < used; s++) {
            weights[s] = std::exp(weights[s] - largest);
            total += weights[s];
        }
        float *out = y + head * D;
        std::fill(out, out + D, 0.0f);
        for (int64_t s = 0; s < used; s++) {
            const float share = weights[s] / total;
            if (share == 0) continue;  // what is not seen may hold NaN
            const float *value = own_values + s * D;
            for (int64_t i = 0; i < D; i++) out[i] += share * value[i];
        }
    }
}

// x (rows, C), the stream, and y (rows, H * D), what attention found -> the stream after the block.
void block_output(const Block *block, const float *x, const float *y, int64_t rows, float *out, int64_t threads) {
    const int64_t C = block->o.rows;
    const int64_t F = block->down.columns;
    static thread_local std::vector<float> normal, both, hidden, added;
    normal.resize(rows * C);
    added.resize(rows * C);
    both.resize(rows * 2 * F);
    hidden.resize(rows * F);

    product(block->o, y, rows, out, threads);
    for (int64_t i = 0; i < rows * C; i++) out[i] += x[i];
    norm_rows(out, block->output_norm, block->eps, rows, C, normal.data(), threads);

    product(block->gate_up, normal.data(), rows, both.data(), threads);
    float *const made = hidden.data();
    const float *const halves = both.data();
#pragma omp parallel for num_threads(threads) if (rows * F > 1024)
    for (int64_t i = 0; i < rows * F; i++) {
        const int64_t row = i / F;
        const float gate = halves[i + row * F];
        const float up = halves[i + row * F + F];
        made[i] = gate / (1.0f + std::exp(-gate)) * up;
    }
    product(block->down, hidden.data(), rows, added.data(), threads);
    for (int64_t i = 0; i < rows * C; i++) out[i] += added[i];
}

// All blocks for one new token a row. x (B, C) becomes the stream after the last block, in place. keys, values:
// (L, B, Hkv, slots, D); the others as above.
void one_token(const Block *blocks, int64_t L, float *x, int64_t B, const float *cos, const float *sin,
               int64_t each_row, float *keys, float *values, const uint8_t *mask, int64_t slots, int64_t begin,
               int64_t threads) {
    static thread_local std::vector<float> q, k, v, y, out;
    for (int64_t layer = 0; layer < L; layer++) {
        const Block *block = blocks + layer;
        const int64_t H = block->H;
        const int64_t Hkv = block->Hkv;
        const int64_t D = block->D;
        const int64_t C = block->o.rows;
        const int64_t of_layer = layer * B * Hkv * slots * D;
        q.resize(B * H * D);
        k.resize(B * Hkv * D);
        v.resize(B * Hkv * D);
        y.resize(B * H * D);
        out.resize(B * C);

        block_input(block, x, B, 1, cos, sin, each_row, q.data(), k.data(), v.data(), threads);
        attend(q.data(), k.data(), v.data(), keys + of_layer, values + of_layer, mask, B, H, Hkv, D, slots, begin,
               y.data(), threads);
        block_output(block, x, y.data(), B, out.data(), threads);
        std::copy(out.begin(), out.end(), x);
    }
}
}
